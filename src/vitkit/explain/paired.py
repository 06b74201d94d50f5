"""Scores of a method beside those of chance, on the same images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
FEWEST = 10  # images from which on an interval may say that a method is better
SHARE = 0.95  # of the resamples lies inside an interval

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Score:
    """The mean of one measure over images, and how far it is from that of random maps."""

    mean: float
    difference: float = 0.0  # from random maps
    interval: Interval = (0.0, 0.0)  # 95 %, of the difference
    better: bool = False  # the whole interval lies on the good side of 0, of FEWEST images or more

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.mean:.3f} ({self.difference:+.3f}, {low:+.3f} to {high:+.3f})"


def paired_score(
    values: NDArray[np.float64], chance: NDArray[np.float64], *, lower_is_better: bool = False
) -> Score:
    """Compare the scores of n images with those of random maps for the same images, (n,) each.

    Of fewer than FEWEST images the resamples are too much alike to tell; of one they all are it.
    """
    differences = values - chance
    low, high = mean_interval(differences)
    better = high < 0 if lower_is_better else low > 0
    enough = len(values) >= FEWEST
    return Score(float(values.mean()), float(differences.mean()), (low, high), better and enough)


def mean_interval(values: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """The 95 % interval of a mean: percentiles of resamples with replacement (Efron 1979)."""
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    means = values[draws].mean(axis=1)
    low, high = np.quantile(means, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return float(low), float(high)
