"""Pictures to change, Pillow's way to change them, and the comparison of distributions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

Photos = Callable[[int, int, int, int], Tensor]


@pytest.fixture(scope="session")
def photos() -> Photos:
    """`photos(B, C, H, W)` is uint8: smooth, rough, dull and flat pictures in turn."""

    def make(count: int, channels: int, height: int, width: int) -> Tensor:
        rng = np.random.default_rng(0)
        pictures = []
        for i in range(count):
            coarse = (2, 4, max(height, width))[i % 3]
            noise = Image.fromarray(rng.integers(0, 256, (coarse, coarse, 3), dtype=np.uint8))
            pixels = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
            if i % 5 == 0:
                pixels = pixels // 3 + 60
            if i % 11 == 10:
                pixels = np.full_like(pixels, 40 + i)
            pictures.append(pixels.transpose(2, 0, 1)[:channels])
        return torch.from_numpy(np.stack(pictures))

    return make


@pytest.fixture(scope="session")
def each() -> Callable[..., Tensor]:
    """`each(images, change, values)` changes every image by `change(picture, value)` of Pillow."""

    def apply(images: Tensor, change: Callable[..., Image.Image], values: Tensor) -> Tensor:
        changed = []
        for image, value in zip(images.permute(0, 2, 3, 1).numpy(), values.tolist(), strict=True):
            picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
            pixels = np.array(change(picture, value))
            changed.append(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))
        return torch.from_numpy(np.stack(changed))

    return apply


@pytest.fixture(scope="session")
def same_distribution() -> Callable[[ArrayLike, ArrayLike], bool]:
    """Whether two samples may be of one distribution: Kolmogorov and Smirnov's test at 1e-4."""

    def test(ours: ArrayLike, theirs: ArrayLike) -> bool:
        a, b = (np.sort(np.asarray(sample, dtype=np.float64).ravel()) for sample in (ours, theirs))
        values = np.concatenate([a, b])
        shares = [np.searchsorted(s, values, side="right") / len(s) for s in (a, b)]
        gap = float(np.abs(shares[0] - shares[1]).max())
        return gap * (len(a) * len(b) / (len(a) + len(b))) ** 0.5 < 2.23

    return test


@pytest.fixture(scope="session")
def uniform() -> Callable[[ArrayLike], bool]:
    """Whether counts may be of equally likely outcomes: the chi-square is within 5 sigma."""

    def test(counts: ArrayLike) -> bool:
        seen = np.asarray(counts, dtype=np.float64)
        expected = seen.sum() / seen.size
        freedom = seen.size - 1
        return bool(((seen - expected) ** 2 / expected).sum() < freedom + 5 * (2 * freedom) ** 0.5)

    return test
