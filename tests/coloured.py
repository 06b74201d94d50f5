"""Folders of small images whose colours tell their classes apart."""

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("blue", "green", "red")


def draw(folder: Path, images: int, size: tuple[int, int], *, odd: int = 0) -> Path:
    """Three classes of noisy images, (h, w); every `odd`-th has the colour of any of the three."""
    random = np.random.default_rng(0)
    for number_of_class, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            pixels = random.integers(0, 120, (*size, 3), dtype=np.uint8)
            drawn = random.integers(3) if odd and number % odd == 0 else number_of_class
            pixels[..., 2 - drawn] += 130
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder
