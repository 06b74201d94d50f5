"""Turning, slanting and moving against Pillow."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from PIL import Image
from torch import Tensor

from vitkit.data.augment.affine import (
    FILL,
    affine,
    rotate,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)

SHAPES = [(66, 3, 24, 24), (66, 1, 24, 24), (66, 3, 9, 31), (66, 3, 1, 4)]
MATRICES = {
    shear_x: lambda value: (1, value, 0, 0, 1, 0),
    shear_y: lambda value: (1, 0, 0, value, 1, 0),
    translate_x: lambda value: (1, 0, value, 0, 1, 0),
    translate_y: lambda value: (1, 0, 0, 0, 1, value),
}

Photos = Callable[..., Tensor]
Each = Callable[..., Tensor]


def filled(picture: Image.Image) -> int | tuple[int, ...]:
    """Pillow's form of `FILL`."""
    return FILL if picture.mode == "L" else (FILL,) * 3


def transformed(picture: Image.Image, value: float, matrix: Callable[..., tuple]) -> Image.Image:
    """Pillow's bilinear reading by a matrix."""
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix(value),
        Image.Resampling.BILINEAR,
        fillcolor=filled(picture),
    )


def turned(picture: Image.Image, degrees: float) -> Image.Image:
    """Pillow's rotation."""
    return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=filled(picture))


def assert_near(given: Tensor, expected: Tensor) -> None:
    """Equal but for one pixel in 200, which differs by one level."""
    assert given.dtype == torch.uint8 and given.shape == expected.shape
    gap = (given.int() - expected.int()).abs()
    assert gap.max() <= 1 and (gap > 0).float().mean() < 5e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most", [0.3, 1.3, 40])
@pytest.mark.parametrize("ours", MATRICES)
def test_pillow(
    ours: Callable[..., Tensor], most: float, shape: tuple[int, ...], photos: Photos, each: Each
) -> None:
    images = photos(*shape)
    before = images.clone()
    generator = torch.Generator().manual_seed(0)
    values = (torch.rand(len(images), generator=generator) * 2 - 1) * most
    values[:3] = torch.tensor([0, 0.5, -0.5])  # to and from the border itself
    expected = each(images, partial(transformed, matrix=MATRICES[ours]), values)
    assert_near(ours(images, values), expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation(shape: tuple[int, ...], photos: Photos, each: Each) -> None:
    images = photos(*shape)
    degrees = torch.rand(len(images), generator=torch.Generator().manual_seed(0)) * 720 - 360
    assert_near(rotate(images, degrees), each(images, turned, degrees))


def test_quarter_turns(photos: Photos) -> None:
    images = photos(4, 3, 12, 12)
    turns = torch.tensor([0, 90, 180, -90])
    expected = [image.rot90(k, (1, 2)) for image, k in zip(images, (0, 1, 2, 3), strict=True)]
    assert torch.equal(rotate(images, turns), torch.stack(expected))


@pytest.mark.parametrize("ours", [translate_x, translate_y])
def test_whole_pixels_are_moved_exactly(ours: Callable[..., Tensor], photos: Photos) -> None:
    images = photos(9, 3, 6, 8)
    steps = torch.arange(-4, 5)
    given = ours(images, steps)
    for image, step, moved in zip(images, steps.tolist(), given, strict=True):
        axis = 2 if ours is translate_x else 1
        side = image.shape[axis]
        expected = torch.full_like(image, FILL)
        kept = side - abs(step)
        expected.narrow(axis, max(-step, 0), kept).copy_(image.narrow(axis, max(step, 0), kept))
        assert torch.equal(moved, expected)


def test_flat_images_stay_flat() -> None:
    """Interpolation of equal levels must not lose one to rounding."""
    images = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 11, 13)
    torch.manual_seed(0)
    matrix = torch.eye(2, 3).repeat(256, 1, 1) + 0.2 * torch.rand(256, 2, 3)
    given = affine(images, matrix)
    assert (((given == images) | (given == FILL)).all()) and (given == images).float().mean() > 0.5
