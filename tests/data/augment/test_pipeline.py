"""The pipeline: its parts in their order, and what it refuses."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vitkit.data.augment.colour import random_jitter
from vitkit.data.augment.erase import random_erase
from vitkit.data.augment.geometry import random_mirror, random_shift
from vitkit.data.augment.pipeline import POLICIES, Augment
from vitkit.data.augment.policy import RandAugment, ThreeAugment, TrivialAugment
from vitkit.errors import ConfigError

Change = Callable[[Tensor], Tensor]
OFF: dict[str, Any] = {"mirror": False}
STRONG = RandAugment(num_ops=3, magnitude=4, magnitude_std=0.1)


def move(images: Tensor) -> Tensor:
    return random_shift(images, 0.2)


def jitter(images: Tensor) -> Tensor:
    return random_jitter(images, 0.3)


def turn(images: Tensor) -> Tensor:
    return random_jitter(images, 0.0, 0.2)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({}, [random_mirror]),
        (OFF, []),
        ({**OFF, "shift": 0.2}, [move]),
        ({**OFF, "jitter": 0.3}, [jitter]),
        ({**OFF, "hue": 0.2}, [turn]),
        (
            {
                **OFF,
                "policy": "randaugment",
                "num_ops": 3,
                "magnitude": 4,
                "magnitude_std": 0.1,
            },
            [STRONG],
        ),
        ({**OFF, "policy": "trivialaugment"}, [TrivialAugment()]),
        ({**OFF, "policy": "three_augment"}, [ThreeAugment()]),
        (
            {
                "shift": 0.2,
                "policy": "trivialaugment",
                "jitter": 0.3,
                "erase": 1.0,
            },
            [move, random_mirror, TrivialAugment(), jitter],
        ),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_parts_and_order(
    settings: dict[str, Any], parts: list[Change], channels: int, photos: Callable[..., Tensor]
) -> None:
    images = photos(24, channels, 12, 18)
    before = images.clone()
    torch.manual_seed(5)
    expected = images
    for part in parts:
        expected = part(expected)
    torch.manual_seed(5)
    given = Augment(**settings)(images)
    assert torch.equal(given, expected) and torch.equal(images, before)
    assert given.shape == images.shape and given.dtype == torch.uint8
    changes = [part for part in parts if channels == 3 or part is not turn]  # grey has no hue
    assert not changes or not torch.equal(given, images)


def test_erasing_is_apart(photos: Callable[..., Tensor]) -> None:
    batch = torch.rand(16, 3, 12, 12)
    torch.manual_seed(5)
    expected = random_erase(batch, 0.5)
    torch.manual_seed(5)
    assert torch.equal(Augment(erase=0.5).erased(batch), expected)
    assert torch.equal(Augment().erased(batch), batch)
    images = photos(16, 3, 12, 12)
    assert torch.equal(Augment(**OFF, erase=1.0)(images), images)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_images(policy: str) -> None:
    everything = Augment(shift=0.1, policy=policy, jitter=0.1, erase=1.0)
    none = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    assert everything(none).shape == none.shape
    assert everything.erased(none.float()).shape == none.shape


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mirror": 1}, "mirror=1 is neither true nor false"),
        ({"shift": 1.0}, r"shift=1.0 is not in \[0, 1\)"),
        ({"shift": -0.1}, r"shift=-0.1 is not in \[0, 1\)"),
        ({"shift": "far"}, r"shift='far' is not in \[0, 1\)"),
        ({"jitter": -0.1}, "jitter=-0.1 is not a number from 0"),
        ({"jitter": math.inf}, "jitter=inf is not a number from 0"),
        ({"hue": 0.6}, r"hue=0.6 is not a share in \[0, 0.5\]"),
        ({"erase": 1.1}, r"erase=1.1 is not a probability in \[0, 1\]"),
        ({"erase": math.nan}, r"erase=nan is not a probability in \[0, 1\]"),
        ({"policy": "auto"}, "policy='auto' is unknown; choose none, randaugment"),
        ({"num_ops": 0}, "num_ops=0 is not"),
        ({"magnitude": 11}, "magnitude=11 is not"),
        ({"magnitude_std": -1}, "magnitude_std=-1 is not"),
    ],
)
def test_values_outside_their_range(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Augment(**settings)
