"""Labels that are likely wrong, by confident learning (arXiv:1911.00068).

All of it works on held-out probabilities: a model that learned an image by heart, wrong label and
all, doubts nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitkit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Suspects:
    """What a model that never saw the labels of n images makes of them."""

    likely: NDArray[np.int64]  # (m,) rows whose label is likely wrong, the most suspicious first
    order: NDArray[np.int64]  # (n,) every row, the most suspicious first; `likely` begins it
    suggested: NDArray[np.int64]  # (n,) the class that speaks most against the label
    suspicion: NDArray[np.float64]  # (n,) in [0, 1]: half of 1 + its share less that of the label
    joint: NDArray[np.float64]  # (K, K) share of images of label i that are j: arXiv, eq. 3


def find_suspects(probabilities: ArrayLike, labels: ArrayLike) -> Suspects:
    """Compare held-out `probabilities` (n, K), rows summing to 1, with `labels` (n,) in [0, K).

    An image counts as likely wrong if some class gets at least the share that it gets of its own
    images on average, and of the classes that do, the first is not the label (arXiv, eq. 1 and 2).
    They come in the order of their normalised margin, as in section 3.2.

    Raises:
        ConfigError: the shapes do not fit, or a label is no class.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    if (
        p.ndim != 2
        or y.shape != p.shape[:1]
        or (len(y) and not 0 <= y.min() <= y.max() < p.shape[1])
    ):
        raise ConfigError(
            f"probabilities {p.shape} and labels {y.shape} do not fit; give (n, K), and (n,) in "
            "[0, K)"
        )
    confident = confident_class(p, y)
    wrong = (confident >= 0) & (confident != y)
    rows = np.arange(len(y))
    others = p.copy()
    others[rows, y] = -1.0
    rival = others.argmax(axis=1)
    suspicion = (1 + p[rows, rival] - p[rows, y]) / 2
    order = np.lexsort((-suspicion, ~wrong))
    return Suspects(
        likely=order[: int(wrong.sum())],
        order=order,
        suggested=np.where(wrong, confident, rival),
        suspicion=suspicion,
        joint=_joint(confident, y, p.shape[1]),
    )


def confident_class(p: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class that an image counts as (arXiv, eq. 1), -1: none; (n, K), (n,) -> (n,).

    A class without images is confident of none.
    """
    counts = np.bincount(y, minlength=p.shape[1])
    own = np.bincount(y, weights=p[np.arange(len(y)), y], minlength=p.shape[1])
    thresholds = np.where(counts > 0, own / np.maximum(counts, 1), np.inf)  # eq. 2
    above = np.where(p >= thresholds - 1e-12, p, -1.0)
    best = above.argmax(axis=1)
    return np.where(above[np.arange(len(y)), best] >= 0, best, -1)


def _joint(confident: NDArray[np.int64], y: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Counts of label (row) and confident class (column), calibrated to the labels' own counts."""
    known = confident >= 0
    cells = y[known] * classes + confident[known]
    counted = np.bincount(cells, minlength=classes**2).reshape(classes, classes).astype(np.float64)
    images = np.bincount(y, minlength=classes)
    scaled = counted * (images / np.maximum(counted.sum(axis=1), 1))[:, None]
    joint: NDArray[np.float64] = scaled / max(scaled.sum(), 1)
    return joint
