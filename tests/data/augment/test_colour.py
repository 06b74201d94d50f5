"""Colours against Pillow, to the bit, and hue against torchvision and the standard library."""

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import ImageEnhance
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision

from vitkit.data.augment.colour import (
    brightness,
    contrast,
    grey,
    hue,
    random_jitter,
    saturation,
)

ENHANCERS = [
    (brightness, ImageEnhance.Brightness),
    (contrast, ImageEnhance.Contrast),
    (saturation, ImageEnhance.Color),
]
SHAPES = [(66, 3, 24, 24), (66, 1, 24, 24), (33, 3, 5, 31), (11, 3, 1, 1), (11, 1, 2, 7)]


def factors(count: int) -> Tensor:
    """From 0 to 2 and a little beyond on both sides; 0, 1 and 2 among them."""
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(0)) * 2.4 - 0.2
    return torch.cat([torch.tensor([0.0, 1.0, 2.0]), drawn[3:]])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("ours", "theirs"), ENHANCERS)
def test_pillow(
    ours: Callable[..., Tensor],
    theirs: type,
    shape: tuple[int, ...],
    photos: Callable[..., Tensor],
    each: Callable[..., Tensor],
) -> None:
    images = photos(*shape)
    before = images.clone()
    given = ours(images, factors(len(images)))
    assert given.dtype == torch.uint8 and torch.equal(images, before)
    expected = each(images, lambda picture, f: theirs(picture).enhance(f), factors(len(images)))
    assert torch.equal(given, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey(channels: int, photos: Callable[..., Tensor], each: Callable[..., Tensor]) -> None:
    images = photos(24, channels, 9, 14)
    expected = each(images, lambda p, _: p.convert("L").convert(p.mode), torch.zeros(24))
    given = grey(images)
    assert torch.equal(given, expected)
    given[:, 0] = 0  # no channel shares its memory with another
    assert torch.equal(given[:, 1:], expected[:, 1:])


def test_hue_of_torchvision(photos: Callable[..., Tensor]) -> None:
    images = photos(66, 3, 24, 24)
    turn = torch.linspace(-0.5, 0.5, len(images))
    expected = [torchvision.adjust_hue(*pair) for pair in zip(images, turn.tolist(), strict=True)]
    gap = (hue(images, turn).int() - torch.stack(expected).int()).abs()
    assert gap.max() == 1 and (gap > 0).float().mean() < 0.1


def test_hue_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (500, 3), dtype=np.uint8)
    colours[::4] = colours[::4, :1]  # grey, black among it
    colours[1::4, 1] = colours[1::4, 0]  # two channels alike
    colours[0] = 0
    turns = rng.uniform(-1, 1, 500)
    expected = []
    for colour, turn in zip(colours / 255, turns, strict=True):
        place, share, value = colorsys.rgb_to_hsv(*colour)
        expected.append(colorsys.hsv_to_rgb((place + turn) % 1, share, value))
    images = torch.from_numpy(colours)[:, :, None, None]
    given = hue(images, torch.from_numpy(turns))[:, :, 0, 0].numpy()
    np.testing.assert_allclose(given, np.array(expected) * 255, atol=0.501)


def test_a_third_of_a_turn() -> None:
    primaries = (255 * torch.eye(3, dtype=torch.uint8))[:, :, None, None]
    turned = hue(primaries, torch.full((3,), 1 / 3))
    assert torch.equal(turned, primaries.roll(-1, 0))  # red is green, green is blue, blue is red


def test_one_channel_has_no_colour(photos: Callable[..., Tensor]) -> None:
    images = photos(12, 1, 6, 6)
    for changed in (saturation(images, factors(12)), grey(images), hue(images, factors(12))):
        assert torch.equal(changed, images)


@pytest.mark.parametrize(("most", "low"), [(0.3, 0.7), (1.5, 0.0)])
def test_jitter_draws_each_factor(
    most: float, low: float, monkeypatch: pytest.MonkeyPatch, uniform: Callable[..., bool]
) -> None:
    """What the operations are called with; and for each image in which order."""
    names = ("brightness", "contrast", "saturation", "hue")
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    for number, name in enumerate(names):

        def spy(images: Tensor, factor: Tensor, name: str = name, number: int = number) -> Tensor:
            seen[name].append(factor)
            return images * 4 + number  # a digit to base 4 for every operation

        monkeypatch.setattr(f"vitkit.data.augment.colour.{name}", spy)
    torch.manual_seed(0)
    orders = random_jitter(torch.zeros(12_000, 3, 1, 1, dtype=torch.uint8), most, 0.2)[:, 0, 0, 0]
    counts = np.unique(orders.numpy(), return_counts=True)[1]
    assert len(counts) == 24 and uniform(counts)
    for name, (least, last) in {
        **dict.fromkeys(names, (low, 1 + most)),
        "hue": (-0.2, 0.2),
    }.items():
        drawn = torch.cat(seen[name]).numpy()
        assert len(drawn) == 12_000 and drawn.min() >= least and drawn.max() <= last
        assert uniform(np.histogram(drawn, 40, (least, last))[0])


def test_jitter_of_hue_alone(photos: Callable[..., Tensor]) -> None:
    images = photos(6, 3, 8, 8)
    torch.manual_seed(0)
    turned = random_jitter(images, 0.0, 0.3)
    torch.manual_seed(0)
    assert torch.equal(turned, hue(images, -0.3 + 0.6 * torch.rand(2, 6, 1)[0, :, 0]))


def test_jitter_changes_each_image_its_own_way(photos: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    images = photos(1, 3, 8, 8).expand(32, -1, -1, -1)
    changed = random_jitter(images, 0.4)
    assert len(changed.flatten(1).unique(dim=0)) == 32
