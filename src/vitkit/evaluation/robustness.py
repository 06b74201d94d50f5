"""How a model bears common corruptions (arXiv:1903.12261): top-1 by kind and severity."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitkit.evaluation.corruptions import KINDS, SEVERITIES, corrupt
from vitkit.evaluation.intervals import SEED, Interval, percentiles
from vitkit.progress import Listener, Progress, silent

RESAMPLES = 1000

Pixels = NDArray[np.uint8]
Probabilities = Callable[[Pixels], NDArray[np.float32]]  # (B, C, h, w) -> (B, K)


@dataclass(frozen=True)
class Robustness:
    """Top-1 on corrupted images, fractions in [0, 1]."""

    mean: float  # over all kinds and severities
    interval: Interval  # 95 % of the mean, by resampled images
    kinds: dict[str, tuple[float, ...]]  # top-1 at severities 1 to 5
    image_size: tuple[int, int]  # pixels, height and width: severities are scaled by the smaller

    @property
    def by_severity(self) -> tuple[float, ...]:
        """Mean over the kinds at each severity."""
        return tuple(float(np.mean(column)) for column in zip(*self.kinds.values(), strict=True))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Robustness":
        """The robustness that `asdict` and JSON made these of."""
        return cls(
            mean=fields["mean"],
            interval=(fields["interval"][0], fields["interval"][1]),
            kinds={kind: tuple(scores) for kind, scores in fields["kinds"].items()},
            image_size=(fields["image_size"][0], fields["image_size"][1]),
        )


class Ordeal:
    """Corrupts batches of model inputs in every way and notes which are still named correctly.

    What is drawn depends on an image's number and on nothing else: the result does not change with
    the size of batches. Images are corrupted by `workers` threads.
    """

    def __init__(
        self,
        probabilities: Probabilities,
        *,
        total: int,
        workers: int,
        listen: Listener = silent,
    ) -> None:
        self.probabilities = probabilities
        self.total = total  # images to come
        self.workers = workers
        self.listen = listen
        self.right: list[NDArray[np.bool_]] = []  # (B, kinds, severities)
        self.image_size = (0, 0)

    def add(self, images: Pixels, numbers: Sequence[int], labels: NDArray[np.integer]) -> None:
        """Score a batch, (B, C, h, w) uint8, of those numbers and labels."""
        right = np.empty((len(images), len(KINDS), len(SEVERITIES)), np.bool_)
        before = sum(map(len, self.right))
        with ThreadPoolExecutor(self.workers, thread_name_prefix="vitkit-corrupt") as pool:
            for done, (kind, severity) in enumerate(product(KINDS, SEVERITIES), 1):
                column, place = divmod(done - 1, len(SEVERITIES))
                seeds = [(SEED, number, column, severity) for number in numbers]
                damaged = pool.map(partial(damage, kind=kind, severity=severity), images, seeds)
                answers = self.probabilities(np.stack(list(damaged))).argmax(axis=1)
                right[:, column, place] = answers == labels
                scored = before * right[0].size + done * len(images)
                self.listen(Progress("corrupt", scored, self.total * right[0].size))
        self.right.append(right)
        self.image_size = (images.shape[2], images.shape[3])

    def result(self) -> Robustness:
        """The scores of everything that was added."""
        right = np.concatenate(self.right)
        shares = right.mean(axis=(1, 2))
        random = np.random.default_rng(SEED)
        draws = (random.integers(len(shares), size=len(shares)) for _ in range(RESAMPLES))
        means = np.array([shares[draw].mean() for draw in draws])
        table = right.mean(axis=0)
        return Robustness(
            mean=float(shares.mean()),
            interval=percentiles(means),
            kinds={kind: tuple(map(float, row)) for kind, row in zip(KINDS, table, strict=True)},
            image_size=self.image_size,
        )


def damage(image: Pixels, seed: tuple[int, ...], *, kind: str, severity: int) -> Pixels:
    """A corrupted model input, (C, h, w) uint8 -> the same.

    For a model of grey images an image of three equal channels is corrupted, then made grey.
    """
    random = np.random.default_rng(seed)
    if len(image) == 3:
        return corrupt(image, kind, severity, random)
    return luminance(corrupt(np.repeat(image, 3, axis=0), kind, severity, random))


def luminance(image: Pixels) -> Pixels:
    """RGB as grey, as Pillow weighs it: (3, h, w) uint8 -> (1, h, w)."""
    return np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))[None]
