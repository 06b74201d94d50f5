"""Arrays as small images inside the page."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PHOTO_SIDE = 192  # pixels; shown at about 150
TINY_SIDE = 64  # up to here an image is stored exactly and enlarged in visible pixels
HEAT_SIDE = 250  # pixels, each about two on the screen; larger matrices are pooled
HEAT_RGB = (37, 118, 201)  # one hue with transparency, for light and dark pages alike


def is_tiny(image: NDArray[np.uint8]) -> bool:
    """Whether an image (h, w, 3) has so few pixels that they should be seen."""
    return bool(max(image.shape[:2]) <= TINY_SIDE)


def small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An RGB image (h, w, 3) of any size, brought to the 192 pixels at most of `photo`."""
    if max(image.shape[:2]) <= PHOTO_SIDE:
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(picture)


def photo(image: NDArray[np.uint8]) -> str:
    """An RGB image (h, w, 3) as a data URI: PNG where tiny, else WebP of at most 192 pixels."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    if is_tiny(image):
        return _data_uri(picture, "png", optimize=True)
    picture.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    return _data_uri(picture, "webp", quality=75, method=4)


def whole(image: NDArray[np.uint8]) -> str:
    """An RGB image (h, w, 3) of any size as it is, as a WebP data URI."""
    return _data_uri(Image.fromarray(np.ascontiguousarray(image)), "webp", quality=80, method=4)


def exact(image: NDArray[np.uint8]) -> str:
    """An RGB image (h, w, 3) of few colours or pixels, to the bit, as a PNG data URI."""
    return _data_uri(Image.fromarray(np.ascontiguousarray(image)), "png", optimize=True)


def heat_map(shares: NDArray[np.floating]) -> str:
    """A matrix (K, K) in [0, 1] as a PNG data URI with opacity for value.

    Above 250 classes, blocks of cells share a pixel and the largest of them shows.
    """
    size = -(-len(shares) // HEAT_SIDE)  # cells per pixel along a side
    pad = -len(shares) % size
    cells = np.pad(shares, ((0, pad), (0, pad)))
    side = len(cells) // size
    pooled = cells.reshape(side, size, side, size).max(axis=(1, 3))
    picture = Image.fromarray((pooled * 255).round().astype(np.uint8))  # index = opacity
    picture.putpalette(HEAT_RGB * 256)
    return _data_uri(picture, "png", optimize=True, transparency=bytes(range(256)))


def _data_uri(picture: Image.Image, form: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"
