"""The reliability diagram (arXiv:1706.04599, figure 1): scores in, SVG coordinates out."""

from collections.abc import Sequence
from dataclasses import dataclass

from vitkit.evaluation.calibration import BINS, Bin
from vitkit.evaluation.intervals import wilson
from vitkit.report.frame import percent

WIDTH, HEIGHT = 360, 368  # user units
LEFT, RIGHT, TOP = 40, 16, 10  # margins
SIDE = WIDTH - LEFT - RIGHT  # of the square
STRIP = 36  # height of the counts below it
GAP = 10  # between them
SMALLEST, LARGEST = 2.0, 6.0  # radius of a dot
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Dot:
    """The images of a bin: where, how sure that is, and in words."""

    x: float
    y: float
    low: float  # ends of the accuracy's 95 % interval
    high: float
    radius: float
    words: str


@dataclass(frozen=True)
class Bar:
    """The count of a bin, as a rectangle."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Diagram:
    """Everything to draw, in user units; ticks are (position, text)."""

    summary: str  # the same in words
    dots: tuple[Dot, ...]
    bars: tuple[Bar, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = LEFT + SIDE
    top: int = TOP
    bottom: int = TOP + SIDE  # of the square
    floor: int = TOP + SIDE + GAP + STRIP  # of the counts


def diagram(bins: Sequence[Bin]) -> Diagram:
    """Accuracy against confidence, on a diagonal where the two agree, over counts of images."""
    most = max(part.images for part in bins)
    dots = tuple(_dot(part, most) for part in bins)
    return Diagram(
        summary="Accuracy by confidence: " + "; ".join(dot.words for dot in dots),
        dots=dots,
        bars=tuple(_bar(part, most) for part in bins),
        x_ticks=tuple((_x(value), f"{value:.0%}".rstrip("%")) for value in TICKS),
        y_ticks=tuple((_y(value), f"{value:.0%}".rstrip("%")) for value in TICKS),
    )


def _dot(part: Bin, most: int) -> Dot:
    low, high = wilson(part.accuracy, part.images)
    images = f"{part.images:,} image{'' if part.images == 1 else 's'}"
    words = f"{images} named with {percent(part.confidence)}, {percent(part.accuracy)} right"
    radius = SMALLEST + (LARGEST - SMALLEST) * (part.images / most) ** 0.5
    return Dot(_x(part.confidence), _y(part.accuracy), _y(low), _y(high), radius, words)


def _bar(part: Bin, most: int) -> Bar:
    height = STRIP * part.images / most
    width = SIDE / BINS
    return Bar(_x(part.low) + 1, Diagram.floor - height, width - 2, height)


def _x(share: float) -> float:
    return LEFT + SIDE * share


def _y(share: float) -> float:
    return TOP + SIDE * (1 - share)
