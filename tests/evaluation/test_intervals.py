"""Intervals: SciPy's bootstrap, scikit-learn on a resample, and how often they hold the truth."""

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from vitkit.evaluation.intervals import (
    Answers,
    differences,
    intervals,
    percentiles,
    replicates,
    score_rows,
    wilson,
)
from vitkit.evaluation.metrics import answers_of, evaluate_predictions

NAMES = ["top1", "top5", "macro_f1", "balanced_accuracy", "ece"]


def made(n: int, num_classes: int, seed: int = 0, skill: float = 1.5) -> Answers:
    """Answers with confidence that is right: labels are drawn from the probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, num_classes)) * skill
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    return answers_of(p, labels, [str(i) for i in range(num_classes)])


def test_scores_of_a_resample_are_scikit_learns() -> None:
    """Each row of draws, scored as a data set of its own, classes that it lacks included."""
    answers = made(40, 9)
    draws = np.random.default_rng(1).integers(40, size=(30, 40))
    rows = score_rows(answers, draws)
    assert list(rows) == NAMES
    for row, draw in enumerate(draws):
        truth, named = answers.truth[draw], answers.named[draw]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that are named but absent
            balanced = sklearn.metrics.balanced_accuracy_score(truth, named)
        assert rows["top1"][row] == pytest.approx(np.mean(truth == named))
        assert rows["top5"][row] == pytest.approx(np.mean(answers.rank[draw] < 5))
        f1 = sklearn.metrics.f1_score(truth, named, average="macro")
        assert rows["macro_f1"][row] == pytest.approx(f1)
        assert rows["balanced_accuracy"][row] == pytest.approx(balanced)


def test_of_all_images_once_they_are_the_evaluations_own() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.full(7, 0.4), size=300)
    labels = random.integers(7, size=300)
    classes = [str(i) for i in range(7)]
    evaluation = evaluate_predictions(p, labels, classes)
    rows = score_rows(answers_of(p, labels, classes), np.arange(300)[None])
    for name in NAMES:
        assert rows[name][0] == pytest.approx(getattr(evaluation, name), rel=1e-12)
        low, high = evaluation.intervals[name]
        assert 0 <= low < high <= 1


@pytest.mark.parametrize("name", ["top1", "macro_f1", "balanced_accuracy"])
def test_percentiles_agree_with_scipys_bootstrap(name: str) -> None:
    answers = made(400, 6)

    def statistic(draw: np.ndarray) -> float:
        return float(score_rows(answers, draw.astype(int)[None])[name][0])

    for method in ("percentile", "BCa"):
        theirs = scipy.stats.bootstrap(
            (np.arange(400),),
            statistic,
            n_resamples=1000,
            vectorized=False,
            method=method,
            rng=np.random.default_rng(5),
        ).confidence_interval
        ours = intervals(answers, replicates(answers))[name]
        assert ours == pytest.approx((theirs.low, theirs.high), abs=0.012)


def test_draws_depend_on_the_seed_and_on_nothing_else() -> None:
    answers = made(150, 4)
    first = replicates(answers, resamples=50)
    assert all(np.array_equal(first[n], replicates(answers, resamples=50)[n]) for n in NAMES)
    assert not np.array_equal(first["top1"], replicates(answers, resamples=50, seed=1)["top1"])
    before = np.random.get_state()[1].tolist()
    replicates(answers, resamples=5)
    assert np.random.get_state()[1].tolist() == before


def test_parts_of_the_draws_make_the_same_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = made(150, 4)
    whole = replicates(answers, resamples=20)
    monkeypatch.setattr("vitkit.evaluation.intervals.DRAWS", 450)
    parts = replicates(answers, resamples=20)
    for name in NAMES:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12)


def made_sure(n: int, seed: int, heat: float) -> Answers:
    """As `made` with 5 classes, but the shares are of logits divided by `heat`."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 5)) * 1.5
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    p = np.exp(logits / heat)
    return answers_of(p / p.sum(axis=1, keepdims=True), labels, "abcde")


@pytest.mark.parametrize(("heat", "error"), [(1.0, 0.0), (0.7, None), (0.3, None)])
def test_they_hold_the_truth_as_often_as_they_say(heat: float, error: float | None) -> None:
    """Of models whose true top-1 and calibration error are known: 0, or those of many images."""
    many = score_rows(made_sure(400_000, 999, heat), np.arange(400_000)[None])
    truth = {"top1": many["top1"][0], "ece": many["ece"][0] if error is None else error}
    held = dict.fromkeys(truth, 0)
    for seed in range(200):
        answers = made_sure(250, seed, heat)
        found = intervals(answers, replicates(answers, resamples=300))
        for name in held:
            held[name] += found[name][0] <= truth[name] <= found[name][1]
        assert found["ece"][0] <= score_rows(answers, np.arange(250)[None])["ece"][0]
    assert 0.9 <= held["top1"] / 200 <= 0.99
    assert held["ece"] / 200 >= 0.94  # percentiles alone: 0 of 200 for a true error of 0


def test_a_score_without_mistakes_is_not_certain() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(3, size=50)
    p = np.full((50, 3), 0.01)
    p[np.arange(50), labels] = 0.98
    right = evaluate_predictions(p, labels, "abc").intervals
    assert right["top1"] == right["macro_f1"] == pytest.approx(wilson(1.0, 50))
    assert right["top1"][0] == pytest.approx(0.9287, abs=1e-4)
    assert right["top5"] == (1, 1)  # of three classes always
    wrong = evaluate_predictions(p, (labels + 1) % 3, "abc").intervals
    assert wrong["top1"] == pytest.approx(wilson(0.0, 50))


def test_one_image() -> None:
    found = evaluate_predictions([[0.8, 0.2]], [0], "ab").intervals
    assert found["top1"] == pytest.approx(wilson(1.0, 1))
    assert all(0 <= low <= high <= 1 for low, high in found.values())


def test_differences_are_of_pairs() -> None:
    """A model against itself differs by nothing; unpaired draws would say +-0.1."""
    answers = made(200, 4)
    drawn = replicates(answers)
    assert set(differences(drawn, replicates(answers)).values()) == {(0.0, 0.0)}


def test_percentiles() -> None:
    assert percentiles(np.arange(1001) / 1000) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize("hits", [0, 1, 353, 360])
def test_wilson_solves_its_equation(hits: int) -> None:
    """The ends are the shares p for which the observed one lies 1.96 standard errors away."""
    images = 360
    for end in wilson(hits / images, images):
        distance = abs(hits / images - end)
        expected = 1.96 * math.sqrt(end * (1 - end) / images)
        assert distance == pytest.approx(expected, abs=1e-9)
    low, high = wilson(hits / images, images)
    assert 0 <= low < high <= 1


def test_wilson_covers() -> None:
    hits = np.random.default_rng(0).binomial(200, 0.9, size=2000)
    covered = [low <= 0.9 <= high for low, high in (wilson(h / 200, 200) for h in hits)]
    assert 0.93 < np.mean(covered) < 0.97
