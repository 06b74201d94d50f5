"""Changes of contrast, colour and shape, and what storing does."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitkit.evaluation.corruptions.planes import Planes, sample, smooth


def contrast(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Nearer to each channel's mean: (share of the distance that is left,)."""
    mean: Planes = x.mean(axis=(1, 2), keepdims=True)
    return (x - mean) * np.float32(level[0]) + mean


def saturate(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Other HSV saturation: (factor, and what is added). Grey has the hue of red, as in HSV."""
    value: Planes = x.max(axis=0, keepdims=True)
    lack = value - x  # of each channel: value * saturation * what the hue says
    most = lack.max(axis=0, keepdims=True)
    saturation = most / np.maximum(value, 1e-6)
    changed = np.clip(saturation * level[0] + level[1], 0, 1).astype(np.float32)
    red = np.array([0, 1, 1], np.float32)[:, None, None]
    hue = np.where(most > 0, lack / np.maximum(most, 1e-6), red)
    tinted: Planes = value * (1 - changed * hue)
    return tinted


def elastic_transform(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """A random affine map, then small displacements.

    (their strength, sigma that smooths them, farthest that a corner of the map moves), all in
    shares of the smaller side.
    """
    height, width = x.shape[1:]
    strength, sigma, farthest = (share * min(height, width) for share in level)
    bent = sample(x, *affine_places(height, width, farthest, random))
    shifts = random.uniform(-1, 1, (2, height, width)).astype(np.float32)
    down, across = strength * smooth(shifts, sigma, truncate=3.0, edge="reflect")
    rows, columns = np.mgrid[:height, :width]
    return sample(bent, rows + down, columns + across)


def affine_places(
    height: int, width: int, farthest: float, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each pixel comes from if three points around the middle move: rows, columns (h, w)."""
    middle = np.array([height // 2, width // 2])
    side = max(min(height, width) // 3, 1)
    before = middle + side * np.array([[1, 1], [1, -1], [-1, -1]])
    after = before + random.uniform(-farthest, farthest, before.shape)
    back = np.linalg.solve(np.c_[after, np.ones(3)], before)  # (3, 2): from after to before
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([rows, columns, np.ones_like(rows)], axis=-1) @ back
    return places[..., 0], places[..., 1]


def pixelate(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Smaller and larger again, in blocks: (share of the sides,)."""
    picture = to_picture(x)
    width, height = picture.size
    less = (max(int(width * level[0]), 1), max(int(height * level[0]), 1))
    box = Image.Resampling.BOX
    return to_planes(picture.resize(less, box).resize((width, height), box))


def jpeg_compression(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """(JPEG quality of Pillow,)."""
    file = io.BytesIO()
    to_picture(x).save(file, "JPEG", quality=round(level[0]))
    return to_planes(Image.open(file))


def to_picture(x: Planes) -> Image.Image:
    """Planes as Pillow has them."""
    return Image.fromarray(np.rint(x * 255).astype(np.uint8).transpose(1, 2, 0))


def to_planes(picture: Image.Image) -> Planes:
    """The reverse of `to_picture`."""
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / 255
