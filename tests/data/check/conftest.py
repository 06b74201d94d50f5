"""Drawn images, and what people do to copies of an image."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from vitkit.data.synthetic import draw

Change = Callable[[Image.Image], Image.Image]
Turn = Image.Transpose


def saved(image: Image.Image, kind: str = "JPEG", quality: int = 75) -> Image.Image:
    """The image as a lossy file gives it back."""
    memory = io.BytesIO()
    image.save(memory, kind, quality=quality)
    return Image.open(memory).convert("RGB")


def resized(image: Image.Image, width: float, height: float) -> Image.Image:
    size = (round(image.width * width), round(image.height * height))
    return image.resize(size, Image.Resampling.BICUBIC)


CHANGES: dict[str, Change] = {
    "jpeg": lambda image: saved(image, "JPEG", 40),
    "webp": lambda image: saved(image, "WEBP", 50),
    "half": lambda image: resized(image, 0.5, 0.5),
    "three quarters": lambda image: resized(image, 0.75, 0.75),
    "larger": lambda image: resized(image, 1.7, 1.7),
    "squeezed": lambda image: resized(image, 0.8, 1.0),
    "mirrored": lambda image: image.transpose(Turn.FLIP_LEFT_RIGHT),
    "upside down": lambda image: image.transpose(Turn.FLIP_TOP_BOTTOM),
    "turned": lambda image: image.transpose(Turn.ROTATE_90),
    "all of it": lambda image: saved(
        resized(image.transpose(Turn.FLIP_LEFT_RIGHT), 0.7, 0.7), "JPEG", 60
    ),
}


@pytest.fixture(scope="session")
def changes() -> dict[str, Change]:
    """What makes a near copy, by name."""
    return CHANGES


@pytest.fixture(scope="session")
def drawn() -> list[Image.Image]:
    """Different images of 96 pixels."""
    return [Image.fromarray(draw(index, seed=3, size=96).image) for index in range(120)]


def grey(image: Image.Image, side: int = 16) -> np.ndarray:
    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX))
