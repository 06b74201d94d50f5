"""The rows of a training history, made into charts and the facts to say about them."""

import math
from collections.abc import Sequence
from typing import Any

from vitkit.report.contents import HistoryRow
from vitkit.report.curves import Chart, draw

TABLE_ROWS = 300  # longer histories are thinned in the table, not in the charts


def by_epoch(history: Sequence[HistoryRow]) -> list[HistoryRow]:
    """Rows in the order of their epochs; a resumed run's later row replaces the earlier one."""
    rows = {row["epoch"]: row for row in history}
    return [rows[epoch] for epoch in sorted(rows)]


def charts(rows: Sequence[HistoryRow]) -> list[Chart]:
    """Loss, accuracy, learning rate and speed, those of them that have finite values."""
    epochs = [row["epoch"] for row in rows]
    drawn = [
        draw(
            "Loss",
            epochs,
            {"train": _column(rows, "train_loss"), "validation": _column(rows, "val_loss")},
            lambda value: f"{value:.3g}",
        ),
        draw(
            "Accuracy, %",
            epochs,
            {
                "train": _column(rows, "train_top1", 100),
                "validation": _column(rows, "val_top1", 100),
            },
            lambda value: f"{value:.1f} %",
            limits=(None, 100),
        ),
        draw(
            "Learning rate",
            epochs,
            {"rate": _column(rows, "lr")},
            lambda value: f"{value:.2g}",
            height=120,
            limits=(0, None),
        ),
        draw(
            "Speed, images per second",
            epochs,
            {"speed": _column(rows, "images_per_second")},
            lambda value: f"{value:,.0f}",
            height=120,
            limits=(0, None),
        ),
    ]
    return [chart for chart in drawn if chart]


def best(rows: Sequence[HistoryRow]) -> HistoryRow | None:
    """The last row with the highest validation accuracy, if any was validated."""
    scored = [row for row in rows if _is_finite(row.get("val_top1"))]
    return max(reversed(scored), key=lambda row: float(row["val_top1"]), default=None)


def left_out(rows: Sequence[HistoryRow]) -> tuple[int, int] | None:
    """How many steps had no finite loss or gradient, and the first epoch with one, if any had."""
    first = next((row["epoch"] for row in rows if row.get("bad_steps")), None)
    return None if first is None else (rows[-1].get("bad_steps", 0), first)


def thinned(rows: Sequence[HistoryRow]) -> list[HistoryRow]:
    """At most `TABLE_ROWS` rows, evenly spaced, the last one among them."""
    step = math.ceil(len(rows) / TABLE_ROWS) or 1
    return list(rows[::-1][::step])[::-1]


def _column(rows: Sequence[HistoryRow], key: str, scale: float = 1) -> list[float | None]:
    values = [row.get(key) for row in rows]
    return [None if value is None else value * scale for value in values]


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
