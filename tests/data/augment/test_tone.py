"""Levels turned into others, against Pillow's ImageOps to the bit."""

from collections.abc import Callable

import pytest
import torch
from PIL import Image, ImageOps
from timm.data.auto_augment import solarize_add
from torch import Tensor

from vitkit.data.augment.tone import (
    autocontrast,
    equalise,
    histogram,
    invert,
    look_up,
    posterise,
    solarise,
    solarise_add,
)

SHAPES = [(66, 3, 24, 24), (66, 1, 24, 24), (33, 3, 5, 31), (11, 3, 1, 1), (11, 1, 16, 17)]

Photos = Callable[..., Tensor]
Each = Callable[..., Tensor]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (invert, ImageOps.invert),
        (autocontrast, ImageOps.autocontrast),
        (equalise, ImageOps.equalize),
    ],
)
def test_without_parameters(
    ours: Callable[[Tensor], Tensor],
    theirs: Callable[[Image.Image], Image.Image],
    shape: tuple[int, ...],
    photos: Photos,
    each: Each,
) -> None:
    images = photos(*shape)
    before = images.clone()
    expected = each(images, lambda picture, _: theirs(picture), torch.zeros(len(images)))
    given = ours(images)
    assert given.dtype == torch.uint8
    assert torch.equal(given, expected) and torch.equal(images, before)


@pytest.mark.parametrize("low", range(0, 256, 5))
def test_autocontrast_of_every_range(low: int, each: Each) -> None:
    """Where Pillow's floating point falls just short of a whole level, so must ours."""
    ranges = torch.arange(low, 256)
    images = low + torch.arange(256)[None] % (ranges - low + 1)[:, None]
    images = images.to(torch.uint8).view(-1, 1, 16, 16)
    expected = each(images, lambda picture, _: ImageOps.autocontrast(picture), ranges)
    assert torch.equal(autocontrast(images), expected)


def test_equalise_of_few_and_many_levels(each: Each) -> None:
    """Where few pixels are below the highest level, the steps are short, or of none."""
    torch.manual_seed(0)
    images = (torch.rand(40, 3, 16, 16) ** torch.linspace(0.1, 8, 40).view(-1, 1, 1, 1)) * 256
    images = torch.cat([images, (images / 32).floor() * 32, images.clamp(min=250)])
    images = images.to(torch.uint8)
    expected = each(images, lambda picture, _: ImageOps.equalize(picture), torch.zeros(120))
    assert torch.equal(equalise(images), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_posterise(channels: int, photos: Photos, each: Each) -> None:
    images = photos(32, channels, 12, 12)
    bits = torch.arange(32) % 8 + 1
    assert torch.equal(posterise(images, bits), each(images, ImageOps.posterize, bits))
    assert torch.equal(posterise(images, bits.int()), posterise(images, bits))


def test_no_bits_are_black(photos: Photos) -> None:
    assert not posterise(photos(3, 3, 4, 4), torch.zeros(3, dtype=torch.long)).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_solarise(channels: int, photos: Photos, each: Each) -> None:
    images = photos(60, channels, 12, 12)
    for thresholds in (torch.linspace(0, 256, 60), torch.arange(60) * 4):
        expected = each(images, ImageOps.solarize, thresholds)
        assert torch.equal(solarise(images, thresholds), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_solarise_add(channels: int, photos: Photos, each: Each) -> None:
    """timm's, which is written for Pillow."""
    images = photos(32, channels, 12, 12)
    amount = torch.arange(32) * 8
    assert torch.equal(solarise_add(images, amount), each(images, solarize_add, amount))


@pytest.mark.parametrize("channels", [1, 3])
def test_histogram(channels: int, photos: Photos) -> None:
    images = photos(12, channels, 9, 7)
    expected = [
        torch.bincount(channel.flatten().int(), minlength=256)
        for image in images
        for channel in image
    ]
    assert torch.equal(histogram(images), torch.stack(expected).view(12, channels, 256))


def test_look_up() -> None:
    images = torch.tensor([[[[0, 1]], [[1, 0]]], [[[1, 1]], [[0, 0]]]], dtype=torch.uint8)
    table = torch.zeros(2, 2, 256)
    table[0, :, :2] = torch.tensor([[3.9, 4.0], [5.0, 255.0]])
    table[1, :, :2] = torch.tensor([[7.0, 8.0], [9.0, 10.0]])
    assert look_up(images, table).tolist() == [[[[3, 4]], [[255, 5]]], [[[8, 8]], [[9, 9]]]]
    assert look_up(images, table[:, :1]).tolist() == [[[[3, 4]], [[4, 3]]], [[[8, 8]], [[7, 7]]]]
