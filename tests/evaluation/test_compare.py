"""Two models on the same images: SciPy's binomial test and bootstrap as references."""

import json

import numpy as np
import pytest
import scipy.stats

from vitkit.evaluation.compare import Comparison, compare, mcnemar
from vitkit.evaluation.metrics import answers_of, evaluate_predictions

CLASSES = "abcd"


def compared(n: int, better: float, seed: int = 0) -> tuple[Comparison, np.ndarray, np.ndarray]:
    """A model, and one whose true logits are higher by `better`; which answers of each are right.

    Both see the same noise for the most part, so that they agree on most images.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(4, size=n)
    shared = random.normal(size=(n, 4))
    p = []
    for skill in (1.0, 1.0 + better):
        logits = shared + 0.4 * random.normal(size=(n, 4))
        logits[np.arange(n), labels] += skill
        p.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    evaluations = [evaluate_predictions(one, labels, CLASSES) for one in p]
    answers = [answers_of(one, labels, CLASSES) for one in p]
    right = [one.argmax(axis=1) == labels for one in p]
    return compare(*evaluations, *answers), right[0], right[1]


@pytest.mark.parametrize(
    ("only_first", "only_second"),
    [(0, 0), (0, 1), (1, 0), (3, 3), (2, 9), (0, 30), (41, 60), (500, 431), (20_000, 19_500)],
)
def test_mcnemar_is_a_binomial_test(only_first: int, only_second: int) -> None:
    differing = only_first + only_second
    expected = scipy.stats.binomtest(only_first, differing).pvalue if differing else 1.0
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-9)


def test_counts_and_differences() -> None:
    result, one, other = compared(500, 0.4)
    assert result.both_right == (one & other).sum()
    assert result.only_first == (one & ~other).sum()
    assert result.only_second == (other & ~one).sum()
    assert result.both_wrong == (~one & ~other).sum()
    assert result.p_value == pytest.approx(
        scipy.stats.binomtest(int(result.only_first), result.only_first + result.only_second).pvalue
    )
    assert result.difference["top1"] == pytest.approx(other.mean() - one.mean())
    assert set(result.difference) == {"top1", "top5", "macro_f1", "balanced_accuracy", "ece"}


def test_the_interval_is_a_paired_bootstraps() -> None:
    result, one, other = compared(500, 0.4)
    theirs = scipy.stats.bootstrap(
        (one, other),
        lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert result.intervals["top1"] == pytest.approx((theirs.low, theirs.high), abs=0.006)
    alone = result.first.intervals["top1"]
    low, high = result.intervals["top1"]
    assert high - low < 0.8 * (alone[1] - alone[0])  # the models share most mistakes


def test_equal_models_are_rarely_told_apart_and_unequal_ones_often() -> None:
    same = sum(compared(300, 0.0, seed)[0].significant for seed in range(60))
    better = sum(compared(300, 0.6, seed)[0].significant for seed in range(20))
    assert same <= 7  # 5 % of 60 are 3; the exact test errs on the safe side
    assert better >= 18


def test_json() -> None:
    result, _, _ = compared(60, 0.3)
    fields = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert list(fields) == [
        *("difference", "intervals", "p_value"),
        *("both_right", "only_first", "only_second", "both_wrong", "first", "second"),
    ]
    assert fields["first"]["top1"] == result.first.top1
    assert fields["difference"]["top1"] == result.difference["top1"]
