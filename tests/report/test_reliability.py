import numpy as np
import pytest

from vitkit.evaluation.calibration import Bin, reliability
from vitkit.evaluation.intervals import wilson
from vitkit.report.reliability import SIDE, STRIP, Diagram, diagram

BINS = (Bin(0.2, 4 / 15, 30, 0.25, 0.25), Bin(14 / 15, 1.0, 120, 0.98, 0.5))


def share(y: float) -> float:
    """The accuracy at a height of the square."""
    return (Diagram.bottom - y) / SIDE


def test_dots_lie_where_confidence_and_accuracy_are() -> None:
    drawn = diagram(BINS)
    for dot, part in zip(drawn.dots, BINS, strict=True):
        assert (dot.x - drawn.left) / SIDE == pytest.approx(part.confidence)
        assert share(dot.y) == pytest.approx(part.accuracy)
        interval = wilson(part.accuracy, part.images)
        assert (share(dot.low), share(dot.high)) == pytest.approx(interval)
    first, second = drawn.dots
    assert drawn.bottom - first.y == pytest.approx(first.x - drawn.left)  # on the diagonal
    assert first.radius < second.radius


def test_bars_are_counts() -> None:
    drawn = diagram(BINS)
    assert [bar.height for bar in drawn.bars] == [STRIP / 4, STRIP]
    for bar, part in zip(drawn.bars, BINS, strict=True):
        assert bar.y + bar.height == drawn.floor
        assert drawn.left + SIDE * part.low < bar.x
        assert bar.x + bar.width < drawn.left + SIDE * part.high


def test_the_same_in_words() -> None:
    assert diagram(BINS).summary == (
        "Accuracy by confidence: 30 images named with 25.0\u202f%, 25.0\u202f% right; "
        "120 images named with 98.0\u202f%, 50.0\u202f% right"
    )
    one = diagram(reliability(np.array([1.0]), np.array([True])))
    assert one.dots[0].words == "1 image named with 100.0\u202f%, 100.0\u202f% right"


def test_nothing_lies_outside() -> None:
    random = np.random.default_rng(0)
    drawn = diagram(reliability(random.uniform(size=300), random.uniform(size=300) > 0.5))
    for dot in drawn.dots:
        assert drawn.left <= dot.x <= drawn.right
        assert drawn.top <= dot.high <= dot.y <= dot.low <= drawn.bottom
