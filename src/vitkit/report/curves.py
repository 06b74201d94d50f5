"""Line charts against epochs: numbers in, SVG coordinates out (`page.html` draws them)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WIDTH = 360  # user units, about one CSS pixel each on a phone
LEFT, RIGHT, TOP, BOTTOM = 40, 72, 10, 34  # margins: values, names of lines, air, epochs
LABEL_HEIGHT = 28  # the name of a line and its last value below it
SMALL = 150  # charts lower than this have half as many values on their axis

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve: an SVG path, broken where a value is missing, and the label at its end."""

    name: str
    path: str
    end: Point
    label_y: float
    value: str


@dataclass(frozen=True)
class Chart:
    """A chart in user units; ticks are (position, text)."""

    title: str
    summary: str  # the same in words
    height: int
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT

    @property
    def bottom(self) -> int:
        return self.height - BOTTOM


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
    finite = {name: _finite(epochs, values) for name, values in series.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return None
    values = [value for points in finite.values() for _, value in points]
    low, high = limits
    y_ticks = nice_ticks(
        min(values) if low is None else low,
        max(values) if high is None else high,
        intervals=2 if height < SMALL else 4,
    )
    x = _scale(epochs[0], epochs[-1], LEFT, WIDTH - RIGHT)
    y = _scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP)
    ends = [y(points[-1][1]) for points in finite.values()]
    label_ys = spread(ends, LABEL_HEIGHT, TOP + 8, height - BOTTOM - 12) if len(ends) > 1 else ends
    return Chart(
        title=title,
        summary=f"{title} by epoch: "
        + "; ".join(f"{n} from {text(p[0][1])} to {text(p[-1][1])}" for n, p in finite.items()),
        height=height,
        x_ticks=tuple((x(epoch), str(epoch)) for epoch in epoch_ticks(epochs[0], epochs[-1])),
        y_ticks=tuple((y(value), f"{value:g}") for value in y_ticks),
        lines=tuple(
            Line(
                name=name,
                path=_path(epochs, [(e, (x(e), y(v))) for e, v in points]),
                end=(x(points[-1][0]), y(points[-1][1])),
                label_y=label_y,
                value=text(points[-1][1]),
            )
            for (name, points), label_y in zip(finite.items(), label_ys, strict=True)
        ),
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
    """`positions` moved as little as needed to stay `gap` apart inside [low, high], in order."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = [min(max(positions[i], low), high) for i in order]
    for i in range(1, len(placed)):
        overlap = gap - (placed[i] - placed[i - 1])
        if overlap > 0:
            placed[i - 1] -= overlap / 2
            placed[i] += overlap / 2
    shift = max(low - placed[0], 0) or min(high - placed[-1], 0)
    return [placed[order.index(i)] + shift for i in range(len(placed))]


def _finite(epochs: Sequence[int], values: Sequence[float | None]) -> list[tuple[int, float]]:
    pairs = zip(epochs, values, strict=True)
    return [(epoch, v) for epoch, v in pairs if v is not None and math.isfinite(v)]


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    if low == high:
        return lambda _: (start + stop) / 2
    return lambda value: start + (stop - start) * (value - low) / (high - low)


def _path(epochs: Sequence[int], points: Sequence[tuple[int, Point]]) -> str:
    """An SVG path through `points`; "h0" makes a dot of one that stands alone."""
    before = dict(zip(epochs[1:], epochs[:-1], strict=True))
    parts, last = [], None
    for epoch, (x, y) in points:
        joined = last is not None and before[epoch] == last
        parts.append(f"L{x:.1f} {y:.1f}" if joined else f"M{x:.1f} {y:.1f}h0")
        last = epoch
    return "".join(parts)
