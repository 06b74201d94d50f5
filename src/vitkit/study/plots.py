"""The charts of a study: numbers in, SVG coordinates out (`study.html` draws them)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vitkit.report.curves import Axis, Chart, Values, epoch_axis, nice_ticks, plot
from vitkit.study.outcome import percent
from vitkit.study.record import Record
from vitkit.study.results import Measured
from vitkit.training.position import Row

TONES = 4  # colours of the style sheet
NAMES = 96  # user units right of a chart for the names of lines
WIDTH, LEFT, RIGHT, ROW, TOP, BOTTOM = 420, 100, 64, 30, 6, 36  # of the chart of scores


@dataclass(frozen=True)
class Score:
    """A line of the chart of scores: a dot for the mean, its interval, a small dot a seed."""

    name: str
    y: float
    x: float
    low: float
    high: float
    seeds: tuple[float, ...]
    value: str
    tone: str


@dataclass(frozen=True)
class Scores:
    """Every arm's accuracy with its 95 % interval, in user units; ticks are (position, text)."""

    title: str
    summary: str  # the same in words
    height: int
    x_ticks: tuple[tuple[float, str], ...]
    rows: tuple[Score, ...]
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP

    @property
    def bottom(self) -> int:
        return self.height - BOTTOM


def draw_scores(record: Record) -> Scores:
    """The scores of all arms that have some."""
    arms = record.arms
    low = min(result.top1 - result.margin for _, result in arms)
    high = max(result.top1 + result.margin for _, result in arms)
    ticks = nice_ticks(100 * max(low, 0.0), 100 * min(high, 1.0))
    reach = ticks[-1] - ticks[0]

    def x(share: float) -> float:
        within = min(max((100 * share - ticks[0]) / reach, 0.0), 1.0)
        return LEFT + (WIDTH - RIGHT - LEFT) * within

    tones = tones_of(record)
    rows = tuple(
        Score(
            name=arm.title,
            y=TOP + ROW * (place + 0.5),
            x=x(result.top1),
            low=x(result.top1 - result.margin),
            high=x(result.top1 + result.margin),
            seeds=tuple(x(run.top1) for run in result.runs) if len(result.runs) > 1 else (),
            value=percent(result.top1),
            tone=tones[arm.title],
        )
        for place, (arm, result) in enumerate(arms)
    )
    return Scores(
        title="Held-out images named correctly, with 95 % intervals",
        summary="; ".join(f"{row.name} {row.value}" for row in rows),
        height=TOP + ROW * len(rows) + BOTTOM,
        x_ticks=tuple((x(tick / 100), f"{tick:g}") for tick in ticks),
        rows=rows,
    )


def draw_dependence(record: Record) -> Chart | None:
    """Accuracy against the number that arms differ by, on a scale of ratios; if they do."""
    points = [(arm, result) for arm, result in record.arms if arm.at]
    if len(points) < 2:
        return None
    groups: dict[str, list[tuple[float, float, float]]] = {}
    for arm, result in points:
        place = math.log(arm.at or 1.0), 100 * result.top1, 100 * result.margin
        groups.setdefault(arm.group, []).append(place)
    values = sorted({arm.at for arm, _ in points if arm.at})
    ticks = tuple((math.log(value), f"{value:g}") for value in values)
    return plot(
        f"Accuracy, %, against {record.study.axis}",
        {name: [(at, top1) for at, top1, _ in places] for name, places in groups.items()},
        Axis("", ticks[0][0], ticks[-1][0], ticks),
        lambda value: f"{value:.1f} %",
        right=NAMES,
        height=240,
        tones={name: f"tone-{number % TONES + 1}" for number, name in enumerate(groups)},
        errors={name: [margin for *_, margin in places] for name, places in groups.items()},
    )


def draw_curves(record: Record) -> list[Chart]:
    """Validation accuracy and training loss of every arm's first seed, as training went on."""
    by_clock = record.conditions.minutes is not None
    epochs = None if by_clock else record.conditions.epochs
    histories = {arm.title: history_of(result.first, epochs) for arm, result in record.arms}
    axis = axis_of([at for history in histories.values() for at, _ in history], by_clock)
    tones = tones_of(record)

    accuracy = plot(
        "Validation accuracy, %",
        {n: column(rows, "val_top1", 100) for n, rows in histories.items()},
        axis,
        lambda value: f"{value:.1f} %",
        right=NAMES,
        height=height_for(len(histories)),
        tones=tones,
    )
    loss = plot(
        "Training loss",
        {n: column(rows, "train_loss") for n, rows in histories.items()},
        axis,
        lambda value: f"{value:.3g}",
        right=NAMES,
        height=height_for(len(histories)),
        tones=tones,
    )
    return [chart for chart in (accuracy, loss) if chart]


def column(history: Sequence[tuple[float, Row]], key: str, scale: float = 1.0) -> Values:
    """One figure of a history, scaled, at its places."""
    values = [(at, row.get(key)) for at, row in history]
    return [(at, None if value is None else scale * value) for at, value in values]


def history_of(run: Measured, epochs: int | None) -> list[tuple[float, Row]]:
    """The rows of a run at their minutes, or at their epochs, as if it had had so many."""
    if epochs is None:
        return [(row["seconds"] / 60, row) for row in run.history]
    return [(row["epoch"] * epochs / run.epochs, row) for row in run.history]


def axis_of(places: Sequence[float], by_clock: bool) -> Axis:
    """From 0 on in minutes; else from the first epoch on."""
    if not by_clock:
        last = max(round(max(places)), 1)
        whole = epoch_axis(1, last)
        return Axis(whole.title, min(places), max(max(places), last), whole.ticks)
    ticks = nice_ticks(0.0, max(places))
    return Axis("minutes", 0.0, ticks[-1], tuple((tick, f"{tick:g}") for tick in ticks))


def tones_of(record: Record) -> dict[str, str]:
    """The style of every arm, by its title: a colour for each group, and a dash within it."""
    arms = record.study.arms
    groups = list(dict.fromkeys(arm.group for arm in arms))
    grouped = len(groups) > 1
    styles = {}
    for number, arm in enumerate(arms):
        inside = [other.name for other in arms if other.group == arm.group].index(arm.name)
        colour, dash = (groups.index(arm.group), inside) if grouped else divmod(number, TONES)[::-1]
        styles[arm.title] = f"tone-{colour % TONES + 1}" + (f" dash-{dash + 1}" if dash else "")
    return styles


def height_for(lines: int) -> int:
    """User units of a chart with room for the names of so many lines."""
    return max(240, 62 + 28 * lines)
