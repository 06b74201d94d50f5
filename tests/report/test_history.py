import math
from typing import Any

import pytest

from vitkit.report.history import TABLE_ROWS, best, by_epoch, charts, left_out, thinned


def row(epoch: int, **values: Any) -> dict[str, Any]:
    return {"epoch": epoch, "train_loss": 1.0, "val_loss": 1.0, "val_top1": 0.5} | values


def test_a_resumed_run_counts_once() -> None:
    rows = by_epoch([row(1), row(2, val_top1=0.1), row(3), row(2, val_top1=0.2)])
    assert [r["epoch"] for r in rows] == [1, 2, 3]
    assert rows[1]["val_top1"] == 0.2


def test_best_is_the_last_of_the_highest() -> None:
    scores = [0.3, math.nan, 0.9, None, 0.9]
    found = best([row(i, val_top1=score) for i, score in enumerate(scores)])
    assert found is not None and found["epoch"] == 4
    assert best([row(1, val_top1=None)]) is None
    assert best([]) is None


def test_steps_left_out() -> None:
    rows = [row(1), row(2, bad_steps=0), row(3, bad_steps=2), row(4, bad_steps=5)]
    assert left_out(rows) == (5, 3)
    assert left_out(rows[:2]) is None and left_out([]) is None


@pytest.mark.parametrize("count", [1, TABLE_ROWS, TABLE_ROWS + 1, 5000])
def test_thinned(count: int) -> None:
    kept = thinned([row(i) for i in range(count)])
    assert len(kept) <= TABLE_ROWS and kept[-1]["epoch"] == count - 1
    assert count > TABLE_ROWS or len(kept) == count


def test_charts_are_those_with_values() -> None:
    assert [chart.title for chart in charts([row(1), row(2)])] == ["Loss", "Accuracy, %"]
    full = charts([row(1, lr=0.1, images_per_second=9.0)])
    assert [chart.title for chart in full[2:]] == ["Learning rate", "Speed, images per second"]
    assert charts([]) == []


def test_accuracy_is_in_percent() -> None:
    (_, accuracy) = charts([row(1, val_top1=0.25), row(2, val_top1=0.981)])
    assert accuracy.lines[0].value == "98.1 %"
    assert accuracy.y_ticks[-1][1] == "100"
