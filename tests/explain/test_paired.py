"""Paired intervals, beside SciPy's bootstrap and the truth."""

import numpy as np
import pytest
import scipy.stats

from vitkit.explain.paired import mean_interval, paired_score


def test_interval_is_scipys() -> None:
    values = np.random.default_rng(0).gamma(2, size=150)
    result = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    )
    expected = result.confidence_interval
    low, high = mean_interval(values)
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.1 * width)
    assert high == pytest.approx(expected.high, abs=0.1 * width)
    assert (low, high) == mean_interval(values)


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    held = [
        low <= 0.3 <= high
        for low, high in (mean_interval(random.normal(0.3, 1, 60)) for _ in range(300))
    ]
    assert 0.9 < np.mean(held) < 0.98


def test_pairs_tell_more_than_means() -> None:
    """A difference that is small beside the spread of images, but the same in all of them."""
    random = np.random.default_rng(3)
    chance = random.random(100)
    better = paired_score(chance + 0.02 + random.normal(0, 0.01, 100), chance)
    assert better.better
    assert better.difference == pytest.approx(0.02, abs=0.005)
    assert better.interval[0] < better.difference < better.interval[1]
    assert not paired_score(random.permutation(chance), chance).better


@pytest.mark.parametrize("lower", [True, False])
def test_the_good_side_is_below_or_above(lower: bool) -> None:
    chance = np.linspace(0.2, 0.8, 50)
    assert paired_score(chance - 0.1, chance, lower_is_better=lower).better == lower
    assert paired_score(chance + 0.1, chance, lower_is_better=lower).better != lower
    swaying = chance + np.tile([0.1, -0.1], 25)  # now on one side, now on the other
    assert not paired_score(swaying, chance, lower_is_better=lower).better
    assert not paired_score(chance, chance, lower_is_better=lower).better


@pytest.mark.parametrize(("count", "better"), [(1, False), (9, False), (10, True)])
def test_few_images_tell_nothing(count: int, better: bool) -> None:
    score = paired_score(np.full(count, 0.75), np.full(count, 0.5))
    assert score.better is better
    assert (score.mean, score.difference, score.interval) == (0.75, 0.25, (0.25, 0.25))


def test_in_words() -> None:
    score = paired_score(np.full(4, 0.75), np.full(4, 0.5))
    assert str(score) == "0.750 (+0.250, +0.250 to +0.250)"
