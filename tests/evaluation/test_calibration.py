"""Confidence against accuracy, and the temperature: hand counts, torchmetrics and SciPy."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from numpy.typing import NDArray

from vitkit.evaluation.calibration import (
    Bin,
    bin_of,
    calibration_error,
    fit_temperature,
    reliability,
    uncalibrated,
)


def answers(n: int, num_classes: int, seed: int, heat: float) -> tuple[NDArray, NDArray]:
    """Logits whose right temperature is `heat`: labels are drawn from softmax(logits / heat)."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, num_classes)) * 3
    gumbel = random.gumbel(size=logits.shape)
    return logits.astype(np.float32), (logits / heat + gumbel).argmax(axis=1)


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([1.0, 1.0], [True, True], 0.0),
        ([1.0, 1.0], [True, False], 0.5),
        ([0.2, 0.25], [True, False], 0.525),  # the edge 3/15 belongs to the lower bin: two bins
        ([0.21, 0.25], [True, False], 0.27),  # the same bin: |1 - 0.46| / 2
        ([0.0], [False], 0.0),
    ],
)
def test_calibration_error(confidence: list[float], correct: list[bool], expected: float) -> None:
    assert calibration_error(np.array(confidence), np.array(correct)) == pytest.approx(expected)


def test_bins_hold_what_the_error_sums() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(size=500)
    correct = random.uniform(size=500) < confidence**2
    bins = reliability(confidence, correct)
    assert sum(part.images for part in bins) == 500
    total = sum(part.images * abs(part.accuracy - part.confidence) for part in bins) / 500
    assert total == pytest.approx(calibration_error(confidence, correct))
    for part in bins:
        inside = (confidence > part.low) & (confidence <= part.high)
        assert part.images == inside.sum()
        assert part.accuracy == pytest.approx(correct[inside].mean())
        assert part.confidence == pytest.approx(confidence[inside].mean())


def test_empty_bins_are_left_out() -> None:
    (only,) = reliability(np.array([0.99, 0.97]), np.array([True, False]))
    assert only == Bin(14 / 15, 1.0, 2, pytest.approx(0.98), 0.5)


def test_edges_belong_to_the_lower_bin() -> None:
    assert bin_of(np.array([0.0, 0.5, 0.51, 1.0]), 2).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("heat", [0.3, 1.0, 2.5, 7.0])
@pytest.mark.parametrize("num_classes", [2, 10, 300])
def test_temperature_has_the_least_cross_entropy(heat: float, num_classes: int) -> None:
    """SciPy's bounded minimiser of the cross-entropy, written out, finds the same."""
    logits, labels = answers(5000, num_classes, seed=num_classes, heat=heat)

    def cross_entropy(temperature: float) -> float:
        logs = scipy.special.log_softmax(logits.astype(np.float64) / temperature, axis=1)
        return -float(logs[np.arange(len(labels)), labels].mean())

    found = fit_temperature(logits, labels)
    expected = scipy.optimize.minimize_scalar(
        cross_entropy, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}
    )
    assert found == pytest.approx(expected.x, rel=1e-5)
    assert found == pytest.approx(heat, rel=0.15)


def test_it_mends_the_calibration_of_other_images() -> None:
    logits, labels = answers(8000, 6, seed=1, heat=2.0)
    temperature = fit_temperature(logits[:4000], labels[:4000])

    def error(p: NDArray) -> float:
        return calibration_error(p.max(axis=1), p.argmax(axis=1) == labels[4000:])

    before = error(scipy.special.softmax(logits[4000:], axis=1))
    after = error(scipy.special.softmax(logits[4000:] / temperature, axis=1))
    assert before > 0.1 and after < 0.03


def test_large_logits_are_no_overflow() -> None:
    logits, labels = answers(500, 4, seed=2, heat=1.0)
    shifted = logits * 100 + np.float32(1e4)
    assert fit_temperature(shifted * 0.1, labels) == pytest.approx(
        10 * fit_temperature(logits, labels), rel=1e-2
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_is_learned_where_more_confidence_is_always_better(sign: int) -> None:
    """All right, or all wrong: no temperature has the least cross-entropy."""
    labels = np.arange(60) % 3
    assert fit_temperature(sign * np.eye(3, dtype=np.float32)[labels], labels) == 1


def test_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = answers(300, 5, seed=3, heat=1.5)
    whole = fit_temperature(logits, labels)
    monkeypatch.setattr("vitkit.evaluation.calibration.ROWS", 7)
    assert fit_temperature(logits, labels) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_uncalibrated_is_the_softmax_of_the_logits(temperature: float) -> None:
    logits = np.random.default_rng(0).normal(size=(20, 7)) * 4
    scaled = scipy.special.softmax(logits / temperature, axis=1)
    np.testing.assert_allclose(
        uncalibrated(scaled, temperature), scipy.special.softmax(logits, axis=1), rtol=1e-9
    )
    assert np.isfinite(uncalibrated(np.array([[1.0, 0.0]], np.float32), temperature)).all()
