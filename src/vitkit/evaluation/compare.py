"""Two models on the same images: which is better, and could that be chance?"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vitkit.evaluation.intervals import Answers, Interval, differences, replicates
from vitkit.evaluation.metrics import Evaluation

LEVEL = 0.05  # of the test, below which a difference is called one


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on the same images, and how they differ: the second minus the first."""

    first: Evaluation
    second: Evaluation
    both_right: int  # images
    only_first: int  # right by the first alone
    only_second: int
    both_wrong: int
    p_value: float  # of as many differing answers, or more one-sided, if the models were equal
    intervals: dict[str, Interval]  # 95 %, of the difference of every score

    @property
    def difference(self) -> dict[str, float]:
        """The second's score minus the first's, of every score."""
        return {
            name: getattr(self.second, name) - getattr(self.first, name) for name in self.intervals
        }

    @property
    def significant(self) -> bool:
        """Whether the test tells the models apart at 5 %."""
        return self.p_value < LEVEL

    def to_json(self) -> dict[str, Any]:
        """What `vitkit eval A B DATA --json` prints."""
        return {
            "difference": self.difference,
            "intervals": self.intervals,
            "p_value": self.p_value,
            "both_right": self.both_right,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "both_wrong": self.both_wrong,
            "first": self.first.to_json(),
            "second": self.second.to_json(),
        }


def compare(first: Evaluation, second: Evaluation, answers: Answers, others: Answers) -> Comparison:
    """Compare two evaluations by their answers to the same images, in the same order."""
    one, other = answers.right, others.right
    only_first, only_second = int(np.sum(one & ~other)), int(np.sum(other & ~one))
    return Comparison(
        first=first,
        second=second,
        both_right=int(np.sum(one & other)),
        only_first=only_first,
        only_second=only_second,
        both_wrong=int(np.sum(~one & ~other)),
        p_value=mcnemar(only_first, only_second),
        intervals=differences(replicates(answers), replicates(others)),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value of McNemar's test (1947): a binomial test at one half.

    Images that both models name correctly, or both wrongly, do not count.
    """
    differing, fewer = only_first + only_second, min(only_first, only_second)
    ways = term = 1
    for count in range(fewer):
        term = term * (differing - count) // (count + 1)
        ways += term
    share: float = 2 * ways / 2**differing  # whole numbers: exact to this division
    return min(share, 1.0)
