"""How far confidence is from accuracy, and the temperature that brings the two together."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # arXiv:1706.04599, section 5
FEWEST = 50  # images that a temperature is fitted on; fewer say too little of confidence
COLDEST, HOTTEST = 0.05, 20.0  # temperatures beyond which none is looked for
ROWS = 4096  # of logits at a time, for memory


@dataclass(frozen=True)
class Bin:
    """Images whose first choice got a share in (low, high]."""

    low: float
    high: float
    images: int
    confidence: float  # mean share of the first choice
    accuracy: float


def bin_of(confidence: NDArray[np.floating], bins: int = BINS) -> NDArray[np.int64]:
    """The number of each share's bin, (n,) in [0, 1] -> (n,); equal widths, open at the low end."""
    place: NDArray[np.int64] = np.digitize(
        confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True
    )
    return place


def reliability(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS
) -> tuple[Bin, ...]:
    """The bins that hold images, by rising confidence: what a reliability diagram draws."""
    place = bin_of(confidence, bins)
    images = np.bincount(place, minlength=bins)
    sure = np.bincount(place, weights=confidence, minlength=bins)
    right = np.bincount(place, weights=correct, minlength=bins)
    return tuple(
        Bin(i / bins, (i + 1) / bins, int(n), float(sure[i] / n), float(right[i] / n))
        for i, n in enumerate(images)
        if n
    )


def calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS
) -> float:
    """Mean gap between confidence and accuracy, weighted by images (arXiv:1706.04599, eq. 3).

    `confidence` (n,) of the first choice in [0, 1].
    """
    place = bin_of(confidence, bins)
    gap = np.bincount(place, weights=correct - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The T > 0 for which softmax(logits / T) has the least cross-entropy: (n, K), (n,) -> T.

    One number for all classes, so that every answer stays what it is (arXiv:1706.04599, section
    4.2). Where no T in [0.05, 20] is the best, such as where all answers are right and more
    confidence would always be better, it is 1: nothing can be learned of confidence.
    """
    low, high = 1 / HOTTEST, 1 / COLDEST
    if _slope(low, logits, labels)[0] >= 0 or _slope(high, logits, labels)[0] <= 0:
        return 1.0
    inverse = 1.0
    for _ in range(100):  # Newton's steps, halving the range where they leave it
        slope, curvature = _slope(inverse, logits, labels)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / max(curvature, 1e-300)
        following = step if low < step < high else (low + high) / 2
        if abs(following - inverse) <= 1e-9 * inverse:
            break
        inverse = following
    return float(1 / inverse)


def _slope(
    inverse: float, logits: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[float, float]:
    """First and second derivative of the cross-entropy by 1/T; it is convex in that."""
    first = second = 0.0
    for z, y in _chunks(logits, labels):
        p = np.exp(inverse * z)
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * z).sum(axis=1)
        first += float((mean - z[np.arange(len(y)), y]).sum())
        second += float(((p * z * z).sum(axis=1) - mean**2).sum())
    return first / len(labels), second / len(labels)


def _chunks(
    logits: NDArray[np.floating], labels: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.integer]]]:
    """Logits less their largest, in float64, with their labels."""
    for start in range(0, len(labels), ROWS):
        z = logits[start : start + ROWS].astype(np.float64)
        yield z - z.max(axis=1, keepdims=True), labels[start : start + ROWS]


def uncalibrated(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.floating]:
    """What softmax(logits) was, from softmax(logits / temperature): (n, K) -> the same.

    Shares that are 0 in float stay next to nothing.
    """
    if temperature == 1:
        return probabilities
    p = np.maximum(probabilities.astype(np.float64), 1e-45) ** temperature
    whole: NDArray[np.floating] = p / p.sum(axis=1, keepdims=True)
    return whole
