"""Maps in colours that colour-blind people tell apart, and pictures made of them."""

import io
import math
from bisect import bisect_right
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

# matplotlib's viridis, for values from 0 up; and ColorBrewer's purple to orange, for both signs.
VIRIDIS = (
    *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
    *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
)
PURPLE_ORANGE = (
    *((45, 0, 75), (84, 39, 136), (128, 115, 172), (178, 171, 210), (216, 218, 235)),
    (247, 247, 247),
    *((254, 224, 182), (253, 184, 99), (224, 130, 20), (179, 88, 6), (127, 59, 8)),
)
SIDE = 320  # pixels that an image has at least in a picture
MARGIN, BAR, LINE = 16, 14, 24  # pixels: around, width of the colour bar, height of the title
INK, PAPER = (32, 33, 36), (255, 255, 255)


def scale(values: NDArray[np.floating], *, signed: bool = False) -> NDArray[np.float64]:
    """Values brought to [0, 1]: least to most, or with sign so that 0 is in the middle."""
    values = np.nan_to_num(np.asarray(values, np.float64))
    if signed:
        most = np.abs(values).max()
        return 0.5 + 0.5 * values / most if most else np.full(values.shape, 0.5)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros(values.shape)


def colour(values: NDArray[np.floating], *, signed: bool = False) -> Pixels:
    """A map in colours: (...) -> (..., 3)."""
    anchors = np.array(PURPLE_ORANGE if signed else VIRIDIS, np.float64)
    at = scale(values, signed=signed) * (len(anchors) - 1)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def stretch(
    grid: NDArray[np.float32], size: tuple[int, int], *, smooth: bool = True
) -> NDArray[np.float32]:
    """A grid over an image of `size`: (h', w') -> (h, w), in straight lines or in blocks."""
    method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    if grid.shape == tuple(size):
        return grid
    picture = Image.fromarray(np.ascontiguousarray(grid, np.float32))
    return np.asarray(picture.resize((size[1], size[0]), method))


def enlarge(image: Pixels, side: int) -> Pixels:
    """An image in whole steps, so that its longer side has at least `side` pixels."""
    times = max(-(-side // max(image.shape[:2])), 1)
    return image.repeat(times, 0).repeat(times, 1)


def tile(images: NDArray[Any], *, gap: int, fill: float) -> NDArray[Any]:
    """Images laid out in rows: (R, S, h, w, ...) -> (R (h + gap) - gap, S (w + gap) - gap, ...).

    `gap` cells between them have the value `fill`.
    """
    rows, columns, height, width, *rest = images.shape
    spread = np.full((rows, height + gap, columns, width + gap, *rest), fill, images.dtype)
    spread[:, :height, :, :width] = np.moveaxis(images, 1, 2)
    whole = spread.reshape(rows * (height + gap), columns * (width + gap), *rest)
    return whole[: whole.shape[0] - gap, : whole.shape[1] - gap]


def draw(
    image: Pixels, overlay: Pixels, values: NDArray[np.floating], *, title: str, signed: bool
) -> bytes:
    """Image, map over it and colour bar with its numbers, side by side, as a PNG."""
    height, width = image.shape[:2]
    bar = colour_bar(values, height, signed=signed)
    total = MARGIN * 4 + 2 * width + bar.width
    sheet = Image.new("RGB", (total, height + 2 * MARGIN + LINE), PAPER)
    font = ImageFont.load_default(14)
    title = _fitting(" ".join(title.split()), font, total - 2 * MARGIN)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN - 2), title, INK, font)
    top, left = MARGIN + LINE, MARGIN
    for each in (image, overlay):
        sheet.paste(Image.fromarray(np.ascontiguousarray(each)), (left, top))
        left += width + MARGIN
    sheet.paste(bar, (left, top))
    return png(np.asarray(sheet))


def colour_bar(values: NDArray[np.floating], height: int, *, signed: bool) -> Image.Image:
    """What the colours mean: a bar with the numbers at its ends and in its middle."""
    ramp = colour(np.linspace(1, -1, height), signed=signed)  # the same from 1 to 0 without sign
    font = ImageFont.load_default(14)
    texts = numbers(values, signed=signed)
    words = max(int(font.getlength(text)) for text in texts)
    bar = Image.new("RGB", (BAR + 7 + words, height), PAPER)
    bar.paste(Image.fromarray(ramp[:, None].repeat(BAR, 1)), (0, 0))
    pen = ImageDraw.Draw(bar)
    for place, anchor, text in zip((0.0, 0.5, 1.0), ("lt", "lm", "lb"), texts, strict=True):
        pen.text((BAR + 6, place * (height - 1)), text, INK, font, anchor=anchor)
    return bar


def numbers(values: NDArray[np.floating], *, signed: bool) -> tuple[str, str, str]:
    """The values at the top, the middle and the bottom of a colour bar, in two digits or more."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if signed:
        low, high = -max(-low, high), max(-low, high)
    places = max(1 - math.floor(math.log10(high - low)), 0) if high > low else 2
    top, middle, bottom = (f"{value:.{places}f}" for value in (high, (low + high) / 2, low))
    return f"+{top}" if signed else top, middle, bottom


def png(pixels: Pixels) -> bytes:
    """An RGB picture, (h, w, 3), as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(buffer, "png")  # `optimize` takes seven times as long, for a hundredth of the size
    return buffer.getvalue()


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A text, its end cut off where it is too wide."""
    if font.getlength(text) <= width:
        return text

    def needed(kept: int) -> int:
        return ceil(font.getlength(f"{text[:kept]}..."))

    return f"{text[: bisect_right(range(1, len(text)), width, key=needed)]}..."
