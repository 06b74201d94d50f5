"""Cutting a random part out of an image and bringing it to the model's size."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitkit.data.transforms import RESAMPLING, Preprocess
from vitkit.data.view import View
from vitkit.errors import ConfigError

TRIES = 10  # boxes drawn until one lies within the image


@dataclass(frozen=True, slots=True)
class RandomCrop:
    """A box of random area, proportions and place (arXiv:1409.4842, section 6).

    The area's share of the image is uniform in `scale`, width over height log-uniform in `ratio`,
    among the boxes that lie within the image; an image so oblong that ten draws give none shows as
    much of its middle as `ratio` allows.

    Raises:
        ConfigError: a range that is empty or not positive, or an area beyond the whole.
    """

    scale: tuple[float, float] = (0.08, 1.0)  # of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"scale={self.scale} must be two shares in (0, 1], the smaller first")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ConfigError(f"ratio={self.ratio} must be two positive numbers, the smaller first")

    def view(
        self, height: int, width: int, *, least: tuple[int, int], key: tuple[int, int, int]
    ) -> View:
        """A box of an image of that size; `least` as in View.

        The `key` decides which: a seed, the number of a batch, and the place in it, from 0.
        """
        random = np.random.default_rng(key)
        (least_share, most), (low, high) = self.scale, map(math.log, self.ratio)
        for share, shape, down, right in random.random((TRIES, 4)).tolist():
            area = height * width * (least_share + (most - least_share) * share)
            ratio = math.exp(low + (high - low) * shape)
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < h <= height and 0 < w <= width:
                top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
                return View(top, left, h, w, least)
        h = max(min(height, round(width / self.ratio[0])), 1)
        w = max(min(width, round(height * self.ratio[1])), 1)
        return View((height - h) // 2, (width - w) // 2, h, w, least)


def squeezed(image: NDArray[np.uint8], size: tuple[int, int], preprocess: Preprocess) -> Tensor:
    """All of an image in the model's colours, whatever its proportions: (H, W, 3) -> (C, h, w)."""
    if preprocess.channels == 1:
        image = np.array(Image.fromarray(image).convert("L"))[..., None]
    return resize(image, size, preprocess.interpolation)


def resize(image: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> Tensor:
    """To height and width, by area where it shrinks: (H, W, C) -> (C, h, w), uint8.

    Pillow's result, to two levels of 255 where PyTorch has vector kernels, which take a third of
    Pillow's time.
    """
    if interpolation in ("bicubic", "bilinear") and has_fast_kernel():
        pixels = torch.from_numpy(image if image.flags.writeable else image.copy())
        x = pixels.permute(2, 0, 1)[None]  # (1, C, H, W), the channels innermost in memory
        return F.interpolate(x, size, mode=interpolation, antialias=True)[0]
    grey = image.shape[2] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    resized = np.array(picture.resize(size[::-1], RESAMPLING[interpolation]))
    return torch.from_numpy(resized.reshape(*size, -1)).permute(2, 0, 1)


def has_fast_kernel() -> bool:
    """Whether PyTorch resizes uint8 with vector instructions here."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
