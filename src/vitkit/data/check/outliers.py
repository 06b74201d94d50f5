"""Images unlike the rest of their set: by size, light, contrast and sharpness."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPREAD = 3.5  # robust deviations from the median (Iglewicz and Hoaglin 1993, section 4)
NORMAL = 1.4826  # standard deviations to a median absolute deviation


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as unusual: past the median by SPREAD robust deviations, within bounds.

    The bounds hold the threshold where it means something, be all images alike or none: what is
    past both is always unusual, what is past neither is never. They are values, or with `relative`
    factors of the median; and deviations are then those of the logarithm.
    """

    finding: str  # as it is shown: "too dark"
    measure: str  # of look.MEASURES
    what: str  # the measure in words
    above: bool  # unusual is a larger value, or a smaller one
    bounds: tuple[float, float]
    relative: bool = False


RULES = (
    Rule("small", "side", "side in pixels", False, (1 / 10, 1 / 2), relative=True),
    Rule("large", "side", "side in pixels", True, (2, 10), relative=True),
    Rule("oblong", "oblong", "longer over shorter side", True, (2, 4), relative=True),
    Rule("dark", "dark", "luma of the lightest parts", False, (24, 64)),
    Rule("bright", "bright", "luma of the darkest parts", True, (192, 232)),
    Rule("low-information", "contrast", "contrast in levels", False, (3, 10), relative=False),
    Rule(
        "blurry", "edges", "strength of the sharpest edges", False, (1 / 10, 1 / 2), relative=True
    ),
)


@dataclass(frozen=True, slots=True)
class Unusual:
    """The images that a rule picks, the most unusual first."""

    rule: Rule
    threshold: float
    median: float  # of the set
    rows: NDArray[np.int64]  # (m,)
    values: NDArray[np.float64]  # (m,)


def find_unusual(measures: Mapping[str, NDArray[np.float64]]) -> list[Unusual]:
    """What each of the RULES picks, NaN never; blurry images are those that have contrast."""
    found = [pick(rule, measures[rule.measure]) for rule in RULES]
    flat = next(some.rows for some in found if some.rule.finding == "low-information")
    return [_without(some, flat) if some.rule.finding == "blurry" else some for some in found]


def pick(rule: Rule, values: NDArray[np.float64]) -> Unusual:
    """Apply a rule to a set's values, (n,)."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Unusual(rule, float("nan"), float("nan"), np.zeros(0, np.int64), known)
    median = float(np.median(known))
    threshold = _threshold(rule, known, median)
    with np.errstate(invalid="ignore"):
        picked = values > threshold if rule.above else values < threshold
    rows = np.flatnonzero(picked)
    order = np.argsort(-values[rows] if rule.above else values[rows], kind="stable")
    return Unusual(rule, threshold, median, rows[order], values[rows[order]])


def _threshold(rule: Rule, known: NDArray[np.float64], median: float) -> float:
    """At least half of the set is never past it."""
    low, high = rule.bounds
    sign = 1 if rule.above else -1
    if not rule.relative:
        reach = SPREAD * NORMAL * float(np.median(np.abs(known - median)))
        threshold = float(np.clip(median + sign * reach, low, high))
    else:
        logs = np.log(np.maximum(known, 1e-3))
        reach = SPREAD * NORMAL * float(np.median(np.abs(logs - np.log(max(median, 1e-3)))))
        threshold = median * float(np.clip(np.exp(sign * reach), low, high))
    return max(threshold, median) if rule.above else min(threshold, median)


def _without(some: Unusual, rows: NDArray[np.int64]) -> Unusual:
    keep = ~np.isin(some.rows, rows)
    return Unusual(some.rule, some.threshold, some.median, some.rows[keep], some.values[keep])
