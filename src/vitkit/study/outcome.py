"""What the results say about a claim: by how much arms differ, and whether chance explains it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vitkit.study.results import Z_95, Results

Verdict = Literal["holds", "fails", "open"]
EQUAL = 0.02  # arms whose difference surely is smaller do equally well

CLOSE = "That is too close to call: more test images, seeds or time would decide."


@dataclass(frozen=True, slots=True)
class Gap:
    """A difference of accuracies, in [-1, 1], and half of its 95 % interval."""

    share: float
    margin: float

    @property
    def clear(self) -> bool:
        """Whether it is more than chance explains."""
        return abs(self.share) > self.margin

    @property
    def points(self) -> str:
        """Its size in percentage points: `11.9`."""
        return f"{100 * abs(self.share):.1f}"

    @property
    def signed(self) -> str:
        """The same with its sign: `+11.9`."""
        return f"{100 * self.share:+.1f}".replace("-", "\u2212")

    @property
    def doubt(self) -> str:
        """Its margin in words."""
        return f"give or take {100 * self.margin:.1f}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a claim."""

    verdict: Verdict
    gap: Gap
    gap_is: str  # what is set against what
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """The fields; `gap` and `margin` are shares."""
        return {
            "verdict": self.verdict,
            "gap": self.gap.share,
            "margin": self.gap.margin,
            "gap_is": self.gap_is,
            "sentence": self.sentence,
        }


def contrast(results: Results, weights: Mapping[str, float]) -> Gap:
    """A weighted sum of arms' accuracies: {"a": 1, "b": -1} is by how much a is better than b."""
    share = sum(weight * results[name].top1 for name, weight in weights.items())
    variance = sum((weight * results[name].error) ** 2 for name, weight in weights.items())
    return Gap(share, Z_95 * math.sqrt(variance))


def judge_more(gap: Gap) -> Verdict:
    """For the claim that a difference is above zero."""
    if not gap.clear:
        return "open"
    return "holds" if gap.share > 0 else "fails"


def judge_equal(gap: Gap) -> Verdict:
    """For the claim that there is no difference to speak of."""
    if abs(gap.share) + gap.margin <= EQUAL:
        return "holds"
    return "fails" if gap.clear else "open"


def percent(share: float) -> str:
    """A share for a sentence: `65.7 %`."""
    return f"{100 * share:.1f} %"


def against(results: Results, one: tuple[str, str], other: tuple[str, str]) -> tuple[Gap, str]:
    """By how much one arm is better than another, and a sentence of it; arms as (name, words)."""
    gap = contrast(results, {one[0]: 1, other[0]: -1})
    better, worse = (results[name].top1 for name, _ in (one, other))
    more = "more" if gap.share >= 0 else "fewer"
    words = f"{one[1]} {percent(better)} of the held-out images right, {other[1]} {percent(worse)}"
    return gap, f"{words}: {gap.points} points {more}, {gap.doubt}."


def better(
    results: Results, one: tuple[str, str], other: tuple[str, str], *, gap_is: str, more: str = ""
) -> Outcome:
    """The outcome of the claim that one arm beats another; `more` is what else is to be said."""
    gap, sentence = against(results, one, other)
    verdict = judge_more(gap)
    end = {"holds": "The claim holds here.", "fails": "Here the opposite is true.", "open": CLOSE}
    return Outcome(verdict, gap, gap_is, " ".join(filter(None, (sentence, more, end[verdict]))))


def equal(
    results: Results, one: tuple[str, str], other: tuple[str, str], *, gap_is: str
) -> Outcome:
    """The outcome of the claim that two arms do equally well."""
    gap, sentence = against(results, one, other)
    verdict = judge_equal(gap)
    end = {
        "holds": f"They are as good as equal, to {100 * EQUAL:g} points: the claim holds here.",
        "fails": "Here they differ by more than chance explains.",
        "open": CLOSE,
    }
    return Outcome(verdict, gap, gap_is, f"{sentence} {end[verdict]}")
