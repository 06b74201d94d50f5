"""Maps in colours that colour-blind people tell apart, and pictures made of them."""

import io
from bisect import bisect_right
from math import ceil

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


def draw(
    image: Pixels, overlay: Pixels, values: NDArray[np.floating], *, title: str, signed: bool
) -> bytes:
    """Image, map over it and colour bar with its numbers, side by side, as a PNG."""
    height, width = image.shape[:2]
    font = ImageFont.load_default(14)
    ends = _ends(values, signed=signed)
    words = max(int(font.getlength(end)) for end in ends)
    total = MARGIN * 4 + 2 * width + BAR + 6 + words
    title = _fitting(" ".join(title.split()), font, total - 2 * MARGIN)
    sheet = Image.new("RGB", (total, height + 2 * MARGIN + LINE), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 2), title, INK, font)
    top, left = MARGIN + LINE, MARGIN
    for each in (image, overlay):
        sheet.paste(Image.fromarray(np.ascontiguousarray(each)), (left, top))
        left += width + MARGIN
    ramp = (
        colour(np.linspace(1, -1, height), signed=True)
        if signed
        else colour(np.linspace(1, 0, height))
    )
    bar = np.broadcast_to(ramp[:, None], (height, BAR, 3))
    sheet.paste(Image.fromarray(np.ascontiguousarray(bar)), (left, top))
    for place, text in zip((0.0, 0.5, 1.0), ends, strict=True):
        pen.text((left + BAR + 6, top + place * (height - 1)), text, INK, font, anchor="lm")
    buffer = io.BytesIO()
    sheet.save(buffer, "png")  # `optimize` takes seven times as long, for a hundredth of the size
    return buffer.getvalue()


def _ends(values: NDArray[np.floating], *, signed: bool) -> tuple[str, str, str]:
    """The numbers at the top, the middle and the bottom of the bar."""
    if signed:
        most = float(np.abs(values).max())
        return f"+{most:.2g}", "0", f"-{most:.2g}"
    low, high = float(values.min()), float(values.max())
    return f"{high:.2g}", f"{(low + high) / 2:.2g}", f"{low:.2g}"


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A text, its end cut off where it is too wide."""
    if font.getlength(text) <= width:
        return text

    def needed(kept: int) -> int:
        return ceil(font.getlength(f"{text[:kept]}..."))

    return f"{text[: bisect_right(range(1, len(text)), width, key=needed)]}..."
