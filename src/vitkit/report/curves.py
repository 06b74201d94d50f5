"""Line charts: numbers in, SVG coordinates out (`parts.html` draws them)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeGuard

WIDTH = 360  # user units, about one CSS pixel each on a phone
LEFT, RIGHT, TOP, BOTTOM = 40, 72, 10, 34  # margins: values, names of lines, air, axis
LABEL_HEIGHT = 28  # the name of a line and its last value below it
SMALL = 150  # charts lower than this have half as many values on their axis

Point = tuple[float, float]
Values = Sequence[tuple[float, float | None]]  # (x, value); None or not finite: a gap


@dataclass(frozen=True)
class Line:
    """One curve: an SVG path, broken where a value is missing, and the label at its end."""

    name: str
    path: str
    end: Point
    label_y: float
    value: str
    tone: str = ""  # class of the style sheet
    marks: tuple[Point, ...] = ()  # dots
    whiskers: str = ""  # path of the errors


@dataclass(frozen=True)
class Axis:
    """The horizontal axis; `low` and `high` are its ends, ticks (value, text)."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Chart:
    """A chart in user units; ticks are (position, text)."""

    title: str
    summary: str  # the same in words
    height: int
    x_title: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT

    @property
    def bottom(self) -> int:
        return self.height - BOTTOM

    @property
    def named(self) -> bool:
        """Whether lines bear their names: one alone has the title's."""
        return len(self.lines) > 1


def draw(
    title: str,
    epochs: Sequence[int],
    series: Mapping[str, Sequence[float | None]],
    text: Callable[[float], str],
    *,
    height: int = 220,
    limits: tuple[float | None, float | None] = (None, None),
) -> Chart | None:
    """The `series` against rising `epochs`; None where no value is finite.

    Values that are None or not finite leave a gap; `limits` fix an end of the vertical axis.
    """
    points = {n: list(zip(epochs, values, strict=True)) for n, values in series.items()}
    tones = {name: "main" for name in list(series)[1:]}  # the last of two stands out
    axis = epoch_axis(epochs[0], epochs[-1]) if epochs else epoch_axis(0, 0)
    return plot(title, points, axis, text, height=height, limits=limits, tones=tones)


def epoch_axis(first: int, last: int) -> Axis:
    """An axis of whole epochs."""
    ticks = tuple((float(epoch), str(epoch)) for epoch in epoch_ticks(first, last))
    return Axis("epoch", first, last, ticks)


def plot(
    title: str,
    series: Mapping[str, Values],
    axis: Axis,
    text: Callable[[float], str],
    *,
    width: int = WIDTH,
    height: int = 220,
    right: int = RIGHT,
    limits: tuple[float | None, float | None] = (None, None),
    tones: Mapping[str, str] | None = None,
    errors: Mapping[str, Sequence[float]] | None = None,
) -> Chart | None:
    """Lines along an axis, each with its own points; None where no value is finite.

    `limits` fix an end of the vertical axis, `right` is the margin for the names of lines, and
    `errors` are the half-widths of whiskers, one for each finite point of a line.
    """
    finite = {name: _finite(values) for name, values in series.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return None
    y_ticks = _y_ticks(finite, errors or {}, height, limits)
    x = _scale(axis.low, axis.high, LEFT, width - right)
    y = _scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP)

    ends = [y(points[-1][1]) for points in finite.values()]
    label_ys = spread(ends, LABEL_HEIGHT, TOP + 8, height - BOTTOM - 12) if len(ends) > 1 else ends
    return Chart(
        title=title,
        summary=f"{title} by {axis.title}: "
        + "; ".join(f"{n} from {text(p[0][1])} to {text(p[-1][1])}" for n, p in finite.items()),
        height=height,
        x_title=axis.title,
        x_ticks=tuple((x(value), words) for value, words in axis.ticks),
        y_ticks=tuple((y(value), f"{value:g}") for value in y_ticks),
        lines=tuple(
            Line(
                name=name,
                path=_path([(x(at), y(v) if _is_finite(v) else None) for at, v in series[name]]),
                end=(x(points[-1][0]), y(points[-1][1])),
                label_y=label_y,
                value=text(points[-1][1]),
                tone=(tones or {}).get(name, ""),
                marks=tuple((x(at), y(v)) for at, v in (points if errors else points[-1:])),
                whiskers=_whiskers(points, (errors or {}).get(name, ()), x, y),
            )
            for (name, points), label_y in zip(finite.items(), label_ys, strict=True)
        ),
        width=width,
        right=width - right,
    )


def scatter(
    title: str, points: Sequence[Point], axis: Axis, text: Callable[[float], str]
) -> Chart | None:
    """Dots along an axis, from 0 up; None where no value is finite."""
    finite = _finite(points)
    if not finite:
        return None
    low, high = (end(value for _, value in finite) for end in (min, max))
    y_ticks = nice_ticks(min(low, 0.0), high)
    x = _scale(axis.low, axis.high, LEFT + 8, WIDTH - RIGHT - 8)
    y = _scale(y_ticks[0], y_ticks[-1], 220 - BOTTOM, TOP)
    marks = tuple((x(at), y(value)) for at, value in finite)
    return Chart(
        title=title,
        summary=f"{title} by {axis.title}: from {text(low)} to {text(high)}",
        height=220,
        x_title=axis.title,
        x_ticks=tuple((x(value), words) for value, words in axis.ticks),
        y_ticks=tuple((y(value), f"{value:g}") for value in y_ticks),
        lines=(Line(title, "", marks[-1], 0.0, "", tone="main dots", marks=marks),),
    )


def nice_ticks(low: float, high: float, intervals: int = 4) -> list[float]:
    """Round values, about `intervals` steps of 1, 2, 2.5 or 5 times 10^n, around [low, high]."""
    if low >= high:
        low, high = (0.0, high) if high > 0 else (high, high + 1)
    rough = (high - low) / intervals
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def epoch_ticks(first: int, last: int) -> list[int]:
    """At most seven whole epochs in [first, last], multiples of one round step."""
    step = next(m * 10**n for n in range(18) for m in (1, 2, 5) if (last - first) / (m * 10**n) < 7)
    return [epoch for epoch in range(-(-first // step) * step, last + 1, step)]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """`positions` moved as little as needed to stay `gap` apart inside [low, high], in order.

    More than there is room for go on below `high`.
    """
    order = sorted(range(len(positions)), key=positions.__getitem__)
    touching: list[list[float]] = []  # runs of labels, each position less the gaps before it
    for place, index in enumerate(order):
        touching.append([positions[index] - place * gap])
        while touching[1:] and fmean(touching[-2]) > fmean(touching[-1]):
            last = touching.pop()
            touching[-1] += last
    highest = max(high - gap * (len(order) - 1), low)
    starts = [min(max(fmean(some), low), highest) for some in touching for _ in some]
    placed = {index: starts[place] + place * gap for place, index in enumerate(order)}
    return [placed[index] for index in range(len(positions))]


def _finite(values: Values) -> list[Point]:
    return [(at, v) for at, v in values if _is_finite(v)]


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _y_ticks(
    finite: Mapping[str, Sequence[Point]],
    errors: Mapping[str, Sequence[float]],
    height: int,
    limits: tuple[float | None, float | None],
) -> list[float]:
    """Values of the vertical axis, around all points and their whiskers."""
    reach = [max(errors.get(name, ()), default=0.0) for name in finite]
    low, high = limits
    pairs = list(zip(finite.values(), reach, strict=True))
    if low is None:
        low = min(value - more for points, more in pairs for _, value in points)
    if high is None:
        high = max(value + more for points, more in pairs for _, value in points)
    return nice_ticks(low, high, intervals=2 if height < SMALL else 4)


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    if low == high:
        return lambda _: (start + stop) / 2
    return lambda value: start + (stop - start) * (value - low) / (high - low)


def _path(points: Values) -> str:
    """An SVG path through `points`; "h0" makes a dot of one that stands alone."""
    parts, joined = [], False
    for x, y in points:
        if y is not None:
            parts.append(f"L{x:.1f} {y:.1f}" if joined else f"M{x:.1f} {y:.1f}h0")
        joined = y is not None
    return "".join(parts)


def _whiskers(
    points: Sequence[Point],
    errors: Sequence[float],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> str:
    """An SVG path of the errors of points, if they have some."""
    pairs = zip(points, errors, strict=True) if errors else ()
    return "".join(
        f"M{x(at):.1f} {y(value - error):.1f}V{y(value + error):.1f}"
        for (at, value), error in pairs
    )
