"""Whether arms differ by more than chance explains."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from vitkit.study.outcome import Gap, better, contrast, equal, judge_equal, judge_more
from vitkit.study.results import Result

Made = Callable[..., Result]


def test_the_margin_of_a_difference_covers_the_truth_95_times_of_100(result: Made) -> None:
    rng = np.random.default_rng(0)
    for one, other, images in ((0.5, 0.6, 200), (0.9, 0.95, 360), (0.99, 0.97, 500)):
        hits = rng.binomial(images, [one, other], size=(4000, 2)) / images
        covered = 0
        for a, b in hits.tolist():
            arms = {"a": result(a, images=images), "b": result(b, images=images)}
            gap = contrast(arms, {"a": 1, "b": -1})
            covered += abs(gap.share - (one - other)) <= gap.margin
        assert 0.935 <= covered / len(hits) <= 0.97


def test_the_interval_is_that_of_agresti_and_caffo(result: Made) -> None:
    gap = contrast({"a": result(0.7, images=100), "b": result(0.5, images=100)}, {"a": 1, "b": -1})
    p, q = 71 / 102, 51 / 102  # one more hit and one more miss each
    assert gap.margin == pytest.approx(1.96 * math.sqrt(p * (1 - p) / 102 + q * (1 - q) / 102))
    assert gap.share == pytest.approx(0.2)


def test_seeds_that_disagree_widen_the_interval(result: Made) -> None:
    scores = (0.50, 0.60, 0.70)
    arm = result(*scores)
    assert arm.top1 == pytest.approx(0.6)
    assert arm.spread == pytest.approx(np.std(scores, ddof=1))
    assert arm.error == pytest.approx(np.std(scores, ddof=1) / math.sqrt(3))
    alike = result(0.6, 0.6, 0.6)  # test images may be the same: three runs are not three tests
    assert alike.error == result(0.6).error > 0
    assert result(1.0).error > 0


@pytest.mark.parametrize(
    ("share", "margin", "more", "same"),
    [
        (0.05, 0.02, "holds", "fails"),
        (-0.05, 0.02, "fails", "fails"),
        (0.01, 0.02, "open", "open"),
        (0.0, 0.1, "open", "open"),
        (0.01, 0.005, "holds", "holds"),  # a real difference, but none to speak of
        (-0.01, 0.005, "fails", "holds"),
    ],
)
def test_verdicts(share: float, margin: float, more: str, same: str) -> None:
    assert judge_more(Gap(share, margin)) == more
    assert judge_equal(Gap(share, margin)) == same


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        (
            0.657,
            0.538,
            "The CNN names 65.7 % of the held-out images right, the ViT 53.8 %: 11.9 points more, "
            "give or take 1.3. The claim holds here.",
        ),
        (
            0.538,
            0.657,
            "The CNN names 53.8 % of the held-out images right, the ViT 65.7 %: 11.9 points fewer, "
            "give or take 1.3. Here the opposite is true.",
        ),
        (
            0.54,
            0.538,
            "The CNN names 54.0 % of the held-out images right, the ViT 53.8 %: 0.2 points more, "
            "give or take 1.4. That is too close to call: more test images, seeds or time would "
            "decide.",
        ),
    ],
)
def test_the_sentence_says_what_was_found(result: Made, a: float, b: float, sentence: str) -> None:
    results = {"a": result(a, images=10_000), "b": result(b, images=10_000)}
    outcome = better(results, ("a", "The CNN names"), ("b", "the ViT"), gap_is="")
    assert outcome.sentence == sentence


@pytest.mark.parametrize(
    ("a", "b", "images", "words"),
    [
        (0.60, 0.60, 100_000, "as good as equal, to 2 points: the claim holds"),
        (0.60, 0.65, 100_000, "Here they differ by more than chance explains."),
        (0.60, 0.61, 100, "too close to call"),
    ],
)
def test_equal_arms(result: Made, a: float, b: float, images: int, words: str) -> None:
    results = {"a": result(a, images=images), "b": result(b, images=images)}
    assert words in equal(results, ("a", "One"), ("b", "two"), gap_is="").sentence


def test_signs_are_typographic() -> None:
    assert Gap(0.1194, 0).signed == "+11.9"
    assert Gap(-0.1194, 0).signed == "\u221211.9"
    assert Gap(-0.1194, 0).points == "11.9"
