"""Images drawn from a seed, whose object is known to the pixel: the built-in data `shapes`.

One shape of eight lies on a textured, cluttered ground. Its class shows in its outline alone:
place, size, rotation and colours are drawn independently of it, and clutter never closes an outline
of a class. Box and mask say where an explanation ought to point.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vitkit.errors import ConfigError

Floats = NDArray[np.float64]

MIN_SIZE: Final = 16  # pixels; below, outlines of one radius are told apart by chance
_SUPERSAMPLE: Final = 4
_LUMA: Final = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_CONTRAST: Final = 75  # least difference in luma of object and ground, of 255


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """An image with its class and the place of its object."""

    image: NDArray[np.uint8]  # (size, size, 3) RGB
    label: int  # index into CLASSES
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels, half-open
    mask: NDArray[np.bool_]  # (size, size), pixels at least half covered by the object


def _polar(angles: Floats, radii: Floats | float = 1.0) -> Floats:
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _regular(corners: int) -> Floats:
    return _polar(np.arange(corners) * 2 * np.pi / corners)


def _star() -> Floats:
    return _polar(np.arange(10) * np.pi / 5, np.tile([1.0, 0.42], 5))


def _cross() -> Floats:
    arm = np.array(
        [[0.95, -0.3], [0.95, 0.3], [0.3, 0.3]]
    )  # one of four, each turned by 90 degrees
    turns = (np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), turn) for turn in range(4))
    return np.concatenate([arm @ turn for turn in turns])


def _heart() -> Floats:
    t = np.arange(48) * 2 * np.pi / 48
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2.5], axis=1) / 16.5


def _crescent() -> Floats:
    horn = 0.85  # angle of the two tips from the axis, radians
    outer = _polar(np.linspace(horn, 2 * np.pi - horn, 40))
    inner = _polar(np.linspace(-2.1, 2.1, 30) + np.pi, 0.76) + [0.42, 0.0]
    return np.concatenate([outer, inner[::-1]])


# Outlines within the unit circle; a second one is a hole.
_OUTLINES: Final[dict[str, tuple[Floats, ...]]] = {
    "circle": (_regular(48),),
    "crescent": (_crescent(),),
    "cross": (_cross(),),
    "heart": (_heart(),),
    "ring": (_regular(48), 0.58 * _regular(48)),
    "square": (_regular(4),),
    "star": (_star(),),
    "triangle": (_regular(3),),
}
CLASSES: Final = tuple(_OUTLINES)


def draw(index: int, *, seed: int, size: int) -> Shape:
    """Draw image number `index`, of `size` pixels a side; its label is `index % len(CLASSES)`.

    The same arguments give the same image, whatever else is drawn and in whatever order.

    Raises:
        ConfigError: `index` or `seed` is negative, or `size` is below MIN_SIZE.
    """
    if min(index, seed) < 0:
        raise ConfigError(f"index={index} and seed={seed} must not be negative; count from 0")
    if size < MIN_SIZE:
        raise ConfigError(f"size={size} is too small to tell shapes apart; try {MIN_SIZE} or more")
    rng = np.random.default_rng((seed, index, size))
    label = index % len(CLASSES)
    coverage = _object_coverage(_OUTLINES[CLASSES[label]], rng, size)
    mask = coverage >= 0.5
    luma, side = _choose_luma(rng)
    ground = _ground(rng, size, luma, side) + _texture(rng, size, strength=10)
    thing = _colour(rng, luma) + _texture(rng, size, strength=8)
    pixels = ground + coverage[..., None] * (thing - ground)
    pixels += rng.normal(0, 4, pixels.shape)
    image = np.rint(pixels).clip(0, 255).astype(np.uint8)
    return Shape(image, label, _bounds(mask), mask)


def _object_coverage(outlines: tuple[Floats, ...], rng: np.random.Generator, size: int) -> Floats:
    """Place and turn an outline at random, whole within the image: (size, size) in [0, 1]."""
    radius = size * rng.uniform(0.2, 0.4)
    centre = rng.uniform(radius + 1, size - radius - 1, 2)
    canvas = Image.new("L", (size * _SUPERSAMPLE,) * 2)
    pen = ImageDraw.Draw(canvas)
    angle = rng.uniform(0, 2 * np.pi)
    for fill, outline in zip((255, 0), outlines, strict=False):
        pen.polygon(_points(outline, centre, radius, angle), fill=fill)
    return np.asarray(canvas.reduce(_SUPERSAMPLE)) / 255


def _points(outline: Floats, centre: Floats, radius: float, angle: float) -> list[float]:
    """An outline of the unit circle to x, y, x, y... on the supersampled canvas."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points: list[float] = ((outline @ turn * radius + centre) * _SUPERSAMPLE).ravel().tolist()
    return points


def _bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _choose_luma(rng: np.random.Generator) -> tuple[float, int]:
    """Luma of the object, and whether the ground is darker (-1) or lighter (1)."""
    luma = rng.uniform(30, 225)
    if luma < _CONTRAST + 20:
        return luma, 1
    if luma > 235 - _CONTRAST:
        return luma, -1
    return luma, int(rng.choice((-1, 1)))


def _colour(rng: np.random.Generator, luma: float) -> Floats:
    """A random colour of about that luma, (3,)."""
    tint = rng.uniform(-1, 1, 3)
    tint -= tint @ _LUMA  # weights sum to 1, so luma stays
    room = min(luma, 255 - luma)
    colour: Floats = luma + tint * room * rng.uniform(0.4, 1) / np.abs(tint).max()
    return colour


def _ground_colour(rng: np.random.Generator, luma: float, side: int) -> Floats:
    """A colour on the ground's side of the object's luma."""
    low, high = (luma + _CONTRAST, 245) if side > 0 else (10, luma - _CONTRAST)
    return _colour(rng, rng.uniform(low, max(low, high)))


def _ground(rng: np.random.Generator, size: int, luma: float, side: int) -> Floats:
    """Patches of colour under clutter: (size, size, 3) in 0 to 255."""
    colours = [_ground_colour(rng, luma, side) for _ in range(3)]
    mixture = rng.dirichlet((0.6, 0.6, 0.6), (5, 5)) @ np.stack(colours)
    patches = Image.fromarray(mixture.clip(0, 255).astype(np.uint8))
    canvas = patches.resize((size * _SUPERSAMPLE,) * 2, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    for kind in rng.permutation(("line", "blob", "fragment") * 3):
        red, green, blue = _ground_colour(rng, luma, side).clip(0, 255).astype(int).tolist()
        _clutter(str(kind), pen, (red, green, blue), rng, size)
    return np.asarray(canvas.reduce(_SUPERSAMPLE), np.float64)


def _clutter(
    kind: str,
    pen: ImageDraw.ImageDraw,
    colour: tuple[int, int, int],
    rng: np.random.Generator,
    size: int,
) -> None:
    """Draw a bent line, a ragged blob or a piece of some class's outline, never a whole one."""
    radius, centre, angle = (
        size * rng.uniform(0.1, 0.35),
        rng.uniform(0, size, 2),
        rng.uniform(0, 7),
    )
    width = max(1, round(size * _SUPERSAMPLE * rng.uniform(0.015, 0.05)))
    if kind == "blob":
        corners = int(rng.integers(7, 12))
        ragged = _polar(np.sort(rng.uniform(0, 2 * np.pi, corners)), rng.uniform(0.2, 1, corners))
        pen.polygon(_points(ragged, centre, 0.7 * radius, angle), fill=colour)
    elif kind == "line":
        path = np.cumsum(rng.normal(0, 0.8, (4, 2)), axis=0)
        pen.line(_points(path, centre, radius, angle), fill=colour, width=width, joint="curve")
    else:
        outline = _OUTLINES[CLASSES[rng.integers(len(CLASSES))]][0]
        piece = outline[: 1 + round(len(outline) * rng.uniform(0.3, 0.55))]
        pen.line(_points(piece, centre, radius, angle), fill=colour, width=width, joint="curve")


def _texture(rng: np.random.Generator, size: int, *, strength: float) -> Floats:
    """A grating of random direction and period, (size, size, 1) within +-strength."""
    cycles, angle, phase = rng.uniform(2, 7), rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    steps = np.arange(size) * (2 * np.pi * cycles / size)
    wave = np.sin(steps[:, None] * np.sin(angle) + steps * np.cos(angle) + phase)
    texture: Floats = strength * rng.uniform(0.2, 1) * wave[..., None]
    return texture
