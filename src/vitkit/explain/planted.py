"""Images whose object is known to the pixel, as a model takes them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data import synthetic
from vitkit.data.transforms import Preprocess


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """An image, the class that a model is asked about, and where its object lies, if known."""

    x: Tensor  # (C, h, w), normalised
    label: int
    mask: NDArray[np.bool_] | None = None  # (h, w)


def planted(preprocess: Preprocess, *, count: int, size: int, seed: int) -> Iterator[Example]:
    """The first `count` images of the built-in data `shapes`, of `size` pixels a side.

    Labels are indices into `synthetic.CLASSES`. A model that learned `shapes` has not seen those of
    another seed.

    Raises:
        ConfigError: `size` or `seed` out of range.
    """
    for index in range(count):
        shape = synthetic.draw(index, seed=seed, size=size)
        yield Example(preprocess(shape.image), shape.label, fit_mask(shape.mask, preprocess))


def fit_mask(mask: NDArray[np.bool_], preprocess: Preprocess) -> NDArray[np.bool_]:
    """A mask resized and cropped as its image is: (H, W) -> (h, w), pixels covered by half."""
    picture = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    inside: NDArray[np.bool_] = preprocess.fit(picture)[0] >= 128
    return inside
