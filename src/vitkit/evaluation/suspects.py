"""Labels that are likely wrong, by confident learning (arXiv:1911.00068).

All of it works on held-out probabilities: a model that learned an image by heart, wrong label and
all, doubts nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitkit.errors import ConfigError

LEAST = 0.5  # of the labels, that a model must agree with to doubt others


@dataclass(frozen=True, slots=True)
class Suspects:
    """What a model that never saw the labels of n images makes of them."""

    likely: NDArray[np.int64]  # (m,) rows whose label is likely wrong, the most suspicious first
    order: NDArray[np.int64]  # (n,) every row, `likely` first and then the others in like manner
    suggested: NDArray[np.int64]  # (n,) the class that speaks most against the label
    suspicion: NDArray[np.float64]  # (n,) in [0, 1]: what the model does not give to the label


def find_suspects(probabilities: ArrayLike, labels: ArrayLike) -> Suspects:
    """Compare held-out `probabilities` (n, K), rows summing to 1, with `labels` (n,) in [0, K).

    How many labels of a class are wrong, the confident joint tells (arXiv, eq. 1): images that some
    other class claims, with at least the share that it gets of its own images on average. Which
    ones, self-confidence: those of the class whose label gets the least (section 3.2, "prune by
    class"). The number is too large where the model is weak; the order bears that. A model whose
    first choice is the label of less than half of the images finds none likely.

    Raises:
        ConfigError: the shapes do not fit, or a label is no class.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    _check(p, y)
    rows = np.arange(len(y))
    confident = confident_class(p, y)
    claimed = (confident >= 0) & (confident != y)
    suspicion = 1 - p[rows, y]
    most = np.argsort(-suspicion, kind="stable")
    allowed = np.bincount(y[claimed], minlength=p.shape[1])
    rank = np.empty_like(most)  # within the class, by rising self-confidence
    for label in np.unique(y):
        members = most[y[most] == label]
        rank[members] = np.arange(len(members))
    likely = rank < allowed[y] if knows_enough(agreement(p, y)) else np.zeros(len(y), np.bool_)
    rivals = p.copy()
    rivals[rows, y] = -1.0
    return Suspects(
        likely=most[likely[most]],
        order=np.concatenate([most[likely[most]], most[~likely[most]]]),
        suggested=np.where(claimed, confident, rivals.argmax(axis=1)),
        suspicion=suspicion,
    )


def agreement(p: NDArray[np.floating], y: NDArray[np.int64]) -> float:
    """The share of images whose label is the first choice; 0 without images."""
    return float((p.argmax(axis=1) == y).mean()) if len(y) else 0.0


def knows_enough(agreement: float) -> bool:
    """Whether a model that agrees so often may doubt a label at all."""
    return agreement >= LEAST


def _check(p: NDArray[np.float64], y: NDArray[np.int64]) -> None:
    fits = p.ndim == 2 and y.shape == p.shape[:1]
    if not fits or (len(y) and not 0 <= y.min() <= y.max() < p.shape[1]):
        raise ConfigError(
            f"probabilities {p.shape} and labels {y.shape} do not fit; give (n, K), and (n,) in "
            "[0, K)"
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
