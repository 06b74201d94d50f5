import math
import re

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from vitkit.report.curves import LEFT, RIGHT, TOP, WIDTH, draw, epoch_ticks, nice_ticks, spread

NAN = math.nan


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+?) ([\d.]+)", path)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0.02, 2.3, [0, 1, 2, 3]),
        (90.2, 100, [90, 92.5, 95, 97.5, 100]),
        (0, 0.001, [0, 0.00025, 0.0005, 0.00075, 0.001]),
        (2.3, 2.3, [0, 1, 2, 3]),  # one value: from 0
        (0, 0, [0, 0.25, 0.5, 0.75, 1]),
        (-3, -3, [-3, -2.75, -2.5, -2.25, -2]),
    ],
)
def test_nice_ticks(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == expected


def test_ticks_enclose_the_values() -> None:
    rng = np.random.default_rng(0)
    for low, span in zip(rng.normal(size=300) * 10, 10 ** rng.uniform(-6, 6, 300), strict=True):
        ticks = nice_ticks(low, low + span)
        assert ticks[0] <= low + span * 1e-6 and ticks[-1] >= low + span * (1 - 1e-6)
        assert 2 <= len(ticks) <= 7
        np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1, 1, [1]),
        (0, 0, [0]),
        (1, 5, [1, 2, 3, 4, 5]),
        (1, 30, [5, 10, 15, 20, 25, 30]),
        (0, 12, [0, 2, 4, 6, 8, 10, 12]),
        (1, 300, [50, 100, 150, 200, 250, 300]),
    ],
)
def test_epoch_ticks(first: int, last: int, expected: list[int]) -> None:
    assert epoch_ticks(first, last) == expected


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([50], [50]),
        ([50, 90], [50, 90]),
        ([50, 52], [41, 61]),  # apart around their middle
        ([52, 50], [61, 41]),  # in the order given
        ([0, 1], [0, 20]),  # not past the ends
        ([99, 100], [80, 100]),
        ([50, 51, 52, 53], [21.5, 41.5, 61.5, 81.5]),  # all of them, not only neighbours
        ([50, 30, 31], [57, 17, 37]),  # pushed on by the pair before it
        ([10, 90, 91], [10, 80, 100]),  # what is far off stays
        ([0, 0, 0, 0, 0, 0, 0], [0, 20, 40, 60, 80, 100, 120]),  # too many
    ],
)
def test_labels_keep_apart(positions: list[float], expected: list[float]) -> None:
    assert spread(positions, 20, 0, 100) == pytest.approx(expected)


def test_labels_move_as_little_as_can_be() -> None:
    """Less the gaps, the least squares that keep an order are those of isotonic regression."""
    rng = np.random.default_rng(0)
    for count in range(2, 12):
        positions = np.sort(rng.uniform(0, 100, count))
        gaps = 15.0 * np.arange(count)
        expected = IsotonicRegression().fit_transform(np.arange(count), positions - gaps) + gaps
        found = spread(positions.tolist(), 15.0, -1000, 1000)
        np.testing.assert_allclose(found, expected)


def test_points_are_where_the_values_are() -> None:
    chart = draw("Loss", [1, 2, 3], {"train": [0.0, 1.0, 0.5]}, str, height=220)
    assert chart is not None
    (line,) = chart.lines
    right, middle = WIDTH - RIGHT, (chart.bottom + TOP) / 2
    assert points(line.path) == [
        (LEFT, chart.bottom),
        ((LEFT + right) / 2, TOP),
        (right, middle),
    ]
    assert line.end == (right, middle) and line.value == "0.5"
    assert chart.y_ticks[0] == (chart.bottom, "0") and chart.y_ticks[-1] == (TOP, "1")
    assert "train from 0.0 to 0.5" in chart.summary


def test_missing_values_break_the_line() -> None:
    values = [1.0, 2.0, None, 3.0, NAN, math.inf, 2.0, 1.0]
    chart = draw("Loss", list(range(8)), {"train": values}, str)
    assert chart is not None
    path = chart.lines[0].path
    assert re.sub(r"[^MLh]", "", path) == "MhLMhMhL"  # two points, one alone, two points
    assert len(points(path)) == 5
    assert not re.search("nan|inf", path)


def test_the_label_is_at_the_last_finite_value() -> None:
    chart = draw("Loss", [1, 2, 3], {"train": [2.0, 1.0, NAN]}, str)
    assert chart is not None
    assert chart.lines[0].value == "1.0" and chart.lines[0].end[0] < WIDTH - RIGHT


def test_series_without_values_are_left_out() -> None:
    chart = draw("Loss", [1, 2], {"train": [1.0, 0.5], "validation": [None, None]}, str)
    assert chart is not None and [line.name for line in chart.lines] == ["train"]
    assert draw("Loss", [1, 2], {"train": [NAN, None]}, str) is None


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_everything_stays_inside(epochs: int) -> None:
    values = np.random.default_rng(0).normal(size=(2, epochs)).tolist()
    chart = draw("Loss", list(range(epochs)), {"a": values[0], "b": values[1]}, str)
    assert chart is not None
    for line in chart.lines:
        assert len(points(line.path)) == epochs
        for x, y in points(line.path):
            assert LEFT <= x <= WIDTH - RIGHT and TOP <= y <= chart.bottom
    heights = [line.label_y for line in chart.lines]
    assert abs(heights[0] - heights[1]) > 20
