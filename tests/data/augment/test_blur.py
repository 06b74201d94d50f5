"""Sharpness and blur against Pillow."""

from collections.abc import Callable

import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from vitkit.data.augment.blur import gaussian_blur, sharpness

SHAPES = [(66, 3, 24, 24), (66, 1, 24, 24), (33, 3, 5, 31), (22, 3, 3, 3)]
TINY = [(11, 3, 1, 1), (11, 1, 2, 7), (11, 3, 7, 1)]


@pytest.mark.parametrize("shape", SHAPES + TINY)
def test_sharpness(
    shape: tuple[int, ...], photos: Callable[..., Tensor], each: Callable[..., Tensor]
) -> None:
    images = photos(*shape)
    before = images.clone()
    factor = torch.linspace(-0.1, 2.2, len(images))
    expected = each(images, lambda picture, f: ImageEnhance.Sharpness(picture).enhance(f), factor)
    assert torch.equal(sharpness(images, factor), expected) and torch.equal(images, before)


def blurred(picture: Image.Image, sigma: float) -> Image.Image:
    """Pillow's blur."""
    return picture.filter(ImageFilter.GaussianBlur(sigma))


@pytest.mark.parametrize("shape", SHAPES + TINY)
@pytest.mark.parametrize(("low", "high"), [(0.1, 2), (0.02, 0.3), (1.9, 9)])
def test_blur(
    shape: tuple[int, ...],
    low: float,
    high: float,
    photos: Callable[..., Tensor],
    each: Callable[..., Tensor],
) -> None:
    """Every width in one batch; those beyond the image's own sides too."""
    images = photos(*shape)
    before = images.clone()
    sigma = torch.linspace(low, high, len(images))
    gap = (gaussian_blur(images, sigma).int() - each(images, blurred, sigma).int()).abs()
    assert gap.max() <= 1 and (gap > 0).float().mean() < 2e-3
    assert torch.equal(images, before)


def test_blur_is_nearly_a_gaussian() -> None:
    """One bright pixel becomes the bell curve, whose deviation and total it keeps."""
    images = torch.zeros(3, 1, 41, 41, dtype=torch.uint8)
    images[..., 18:23, 18:23] = 255  # larger than a pixel, as levels are whole
    sigma = torch.tensor([1.0, 1.5, 2.0])
    spread = gaussian_blur(images, sigma)[:, 0].double().sum(1)  # (3, 41)
    place = torch.arange(41.0, dtype=torch.float64) - 20
    variance = (spread * place**2).sum(1) / spread.sum(1)
    torch.testing.assert_close(variance, sigma.double() ** 2 + 2, rtol=0.02, atol=0)
