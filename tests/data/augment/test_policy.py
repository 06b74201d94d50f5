"""Policies: each strength against timm's and torchvision's own, and how often what is drawn."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from timm.data.auto_augment import _RAND_INCREASING_TRANSFORMS, AugmentOp
from torch import Tensor
from torchvision.transforms import TrivialAugmentWide
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.v2 import functional as torchvision

from vitkit.data.augment.affine import FILL
from vitkit.data.augment.policy import (
    RAND_AUGMENT,
    THREE_AUGMENT,
    TRIVIAL_AUGMENT,
    Draw,
    RandAugment,
    ThreeAugment,
    TrivialAugment,
    random_sign,
)
from vitkit.errors import ConfigError

CPU = torch.device("cpu")
TIMM_NAMES = {
    "autocontrast": "AutoContrast",
    "equalise": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterise": "PosterizeIncreasing",
    "solarise": "SolarizeIncreasing",
    "solarise_add": "SolarizeAdd",
    "saturation": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}
HINTS = {"img_mean": (FILL,) * 3, "interpolation": Image.Resampling.BILINEAR}

Photos = Callable[..., Tensor]


def picture(image: Tensor) -> Image.Image:
    """(3, H, W) uint8 as Pillow has it."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def tensor(image: Image.Image) -> Tensor:
    """The reverse of `picture`."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def by_timm(name: str, image: Tensor, magnitude: float, sign: int) -> Tensor:
    """One of timm's operations with a known sign."""
    operation = AugmentOp(TIMM_NAMES[name], prob=1.0, magnitude=magnitude, hparams=dict(HINTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "random", lambda: 0.4 if sign > 0 else 0.6)
        return tensor(operation(picture(image)))


def lively() -> Tensor:
    """A picture that no operation leaves alone and no two turn into the same: (3, 18, 18)."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(5, 200, (3, 18, 18), dtype=np.uint8))


def test_operations_are_timms() -> None:
    assert sorted(TIMM_NAMES[name] for name in RAND_AUGMENT) == sorted(_RAND_INCREASING_TRANSFORMS)


@pytest.mark.parametrize("name", RAND_AUGMENT)
def test_strengths_of_timm(name: str, photos: Photos) -> None:
    """Magnitudes and signs in one batch; posterise at 10 would keep no bit, and Pillow refuses."""
    magnitudes = [m for m in (0, 0.7, 2.5, 4, 5, 7.5, 9, 9.9, 10) if name != "posterise" or m < 10]
    pairs = [(m, sign) for m in magnitudes for sign in (1, -1)]
    images = photos(len(pairs), 3, 20, 28)
    expected = [by_timm(name, image, *pair) for image, pair in zip(images, pairs, strict=True)]
    level, sign = torch.tensor(pairs).T
    given = RAND_AUGMENT[name](images, level / 10, sign)
    gap = (given.int() - torch.stack(expected).int()).abs()
    assert gap.max() <= 1 and (gap > 0).float().mean() < 1e-2


def test_posterise_keeps_a_bit(photos: Photos) -> None:
    images = photos(3, 3, 8, 8)
    given = RAND_AUGMENT["posterise"](images, torch.ones(3), torch.ones(3))
    assert torch.equal(given, images & 128)


def test_frequencies_of_randaugment(uniform: Callable[..., bool]) -> None:
    """What became of copies of one picture: half stay, the rest are spread over timm's results."""
    torch.manual_seed(0)
    count, image = 6000, lively()
    outcomes = [by_timm(name, image, 9, sign) for name in RAND_AUGMENT for sign in (1, -1)]
    candidates = torch.stack([image, *outcomes]).int()
    once = RandAugment(num_ops=1, magnitude=9, magnitude_std=0)
    given = once(image.expand(count, -1, -1, -1)).int()
    gaps = torch.stack([(given - one).abs().flatten(1).amax(1) for one in candidates])
    assert (gaps.amin(0) <= 1).all()
    seen = np.bincount(gaps.argmin(0), minlength=31)
    assert abs(seen[0] / count - 0.5) < 5 * 0.5 / count**0.5
    by_name = seen[1:].reshape(15, 2)
    assert uniform(by_name.sum(1))
    signed = by_name[by_name[:, 1] > 0]  # without a sign, the first of two equal outcomes counts
    assert len(signed) == 9 and uniform(signed)


def test_two_operations_follow_each_other() -> None:
    torch.manual_seed(0)
    image = lively().expand(4000, -1, -1, -1)
    kept = (RandAugment(num_ops=2, magnitude=9)(image) == image).flatten(1).all(1)
    share = kept.double().mean().item()  # neither drawn: 1/4; or inverted twice: 1/30^2
    assert abs(share - 0.25 - 1 / 900) < 5 * (0.25 * 0.75 / 4000) ** 0.5


@pytest.mark.parametrize(("magnitude", "std"), [(9, 0.5), (5, 1.0), (0.5, 2.0), (7, 0)])
def test_magnitudes(magnitude: float, std: float, same_distribution: Callable[..., bool]) -> None:
    torch.manual_seed(0)
    policy = RandAugment(magnitude=magnitude, magnitude_std=std)
    drawn = policy.draw(20_000, CPU)
    normal = np.random.default_rng(0).normal(magnitude, std, 20_000).clip(0, 10) / 10
    if std:
        assert same_distribution(drawn.level, normal)
    else:
        torch.testing.assert_close(drawn.level, torch.full((20_000,), magnitude / 10))
    assert drawn.level.min() >= 0 and drawn.level.max() <= 1


def test_draws_are_independent(uniform: Callable[..., bool]) -> None:
    torch.manual_seed(0)
    drawn = RandAugment().draw(40_000, CPU)
    chosen = drawn.choice >= 0
    strong = (drawn.level > 0.9).long()
    positive = (drawn.sign > 0).long()
    cells = (drawn.choice * 4 + strong * 2 + positive)[chosen]
    table = np.bincount(cells, minlength=60).reshape(15, 4)
    assert uniform(table) and set(drawn.choice.tolist()) == set(range(-1, 15))
    assert set(drawn.sign.tolist()) == {-1.0, 1.0}


def by_torchvision(name: str, image: Tensor, step: int, sign: int) -> Tensor:
    """torchvision's TrivialAugmentWide's operation, magnitude and meaning, on Pillow's image."""
    names = {"saturation": "Color", "posterise": "Posterize", "solarise": "Solarize"}
    names |= {"autocontrast": "AutoContrast", "equalise": "Equalize"}
    title = names.get(name, "".join(part.capitalize() for part in name.split("_")))
    space = TrivialAugmentWide()._augmentation_space(31)
    assert len(space) == len(TRIVIAL_AUGMENT)
    magnitudes, signed = space[title]
    strength = float(magnitudes[step]) if magnitudes.ndim else 0.0
    strength *= sign if signed else 1
    shown, axis = picture(image), int(name.endswith("y"))
    read = {"interpolation": InterpolationMode.BILINEAR, "fill": [FILL] * 3}
    still = {"angle": 0.0, "scale": 1.0, "translate": [0, 0], "shear": [0.0, 0.0]}
    if name == "identity":
        return image
    if name.startswith("shear"):
        still |= {"center": [0, 0]}
        still["shear"][axis] = math.degrees(math.atan(strength))
        return tensor(torchvision.affine(shown, **still, **read))
    if name.startswith("translate"):  # ours goes the other way, which a random sign hides
        still["translate"][axis] = -int(round(strength, 3))  # step 15 is 15.999999
        return tensor(torchvision.affine(shown, **still, **read))
    if name == "rotate":
        return tensor(torchvision.rotate(shown, strength, **read))
    functions = {
        "posterise": lambda: torchvision.posterize(shown, int(strength)),
        "solarise": lambda: torchvision.solarize(shown, strength),
        "autocontrast": lambda: torchvision.autocontrast(shown),
        "equalise": lambda: torchvision.equalize(shown),
    }
    if name in functions:
        return tensor(functions[name]())
    return tensor(getattr(torchvision, f"adjust_{name}")(shown, 1 + strength))


@pytest.mark.parametrize("name", TRIVIAL_AUGMENT)
def test_strengths_of_torchvision(name: str, photos: Photos) -> None:
    """All 31 magnitudes and both signs in one batch."""
    pairs = [(step, sign) for step in range(31) for sign in (1, -1)]
    images = photos(len(pairs), 3, 36, 40)
    expected = [
        by_torchvision(name, image, *pair) for image, pair in zip(images, pairs, strict=True)
    ]
    step, sign = torch.tensor(pairs).T
    given = TRIVIAL_AUGMENT[name](images, step / 30, sign.float())
    gap = (given.int() - torch.stack(expected).int()).abs()
    assert gap.max() <= 1 and (gap > 0).float().mean() < 5e-3


def test_frequencies_of_trivialaugment(uniform: Callable[..., bool]) -> None:
    torch.manual_seed(0)
    drawn = TrivialAugment().draw(60_000, CPU)
    step = (drawn.level * 30).round().long()
    torch.testing.assert_close(drawn.level, step / 30, rtol=0, atol=0)
    cells = (drawn.choice * 31 + step) * 2 + (drawn.sign > 0)
    assert uniform(np.bincount(cells, minlength=14 * 31 * 2))
    assert cells.max() < 14 * 31 * 2


def test_three_augment(
    photos: Photos, uniform: Callable[..., bool], same_distribution: Callable[..., bool]
) -> None:
    """A third of the pictures grey, a third solarised, the others blurred: none is left alone."""
    torch.manual_seed(0)
    image = photos(3, 3, 12, 12)[2]
    given = ThreeAugment()(image.expand(3000, -1, -1, -1))
    shown = picture(image)
    grey = tensor(shown.convert("L").convert("RGB"))
    solarised = tensor(ImageOps.solarize(shown, 128))
    are = [(given == one).flatten(1).all(1) for one in (grey, solarised)]
    rest = ~are[0] & ~are[1]
    assert uniform([are[0].sum(), are[1].sum(), rest.sum()])
    blurs = [
        tensor(shown.filter(ImageFilter.GaussianBlur(s))) for s in np.arange(0.1, 2, 1e-3).tolist()
    ]
    gaps = (torch.stack(blurs).int() - given[rest].int()[:60, None]).abs().flatten(2)
    assert gaps.amax(2).amin(1).max() <= 1
    radii = 0.1 + 1e-3 * gaps.float().mean(2).argmin(1)
    assert same_distribution(radii, np.linspace(0.1, 2, 1000))


def test_strengths_of_three_augment(photos: Photos, each: Callable[..., Tensor]) -> None:
    images, sign = photos(30, 3, 16, 16), torch.ones(30)
    level = torch.linspace(0, 1, 30)
    expected = each(
        images, lambda shown, s: shown.filter(ImageFilter.GaussianBlur(s)), 0.1 + 1.9 * level
    )
    gap = (THREE_AUGMENT["blur"](images, level, sign).int() - expected.int()).abs()
    assert gap.max() <= 1 and (gap > 0).float().mean() < 5e-3


def test_each_image_gets_its_own_and_goes_back_to_its_place() -> None:
    calls: list[tuple[str, int]] = []

    def stamp(name: str, number: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def operation(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
            calls.append((name, len(images)))
            mark = number * 50 + (level * 10).round() + (sign > 0) * 20
            return (images + mark.view(-1, 1, 1, 1)).to(torch.uint8)

        return operation

    table = {name: stamp(name, number) for number, name in enumerate("abcd")}
    choice = torch.tensor([3, -1, 0, 1, 3, 0, -1, 1, 1])
    level = torch.arange(9) / 10
    sign = torch.tensor([1.0, -1, 1, -1, -1, 1, 1, 1, -1])
    images = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).repeat(1, 3, 2, 2)
    given = Draw(choice, level, sign).apply(images, table)
    mark = choice * 50 + torch.arange(9) + (sign > 0) * 20
    expected = torch.arange(9) + mark * (choice >= 0)
    assert given[:, 0, 0, 0].tolist() == expected.tolist()
    assert torch.equal(given, given[:, :1, :1, :1].expand_as(given))
    assert calls == [("a", 2), ("b", 3), ("d", 2)]  # once each, and none for no image


@pytest.mark.parametrize("policy", [RandAugment(), TrivialAugment(), ThreeAugment()])
@pytest.mark.parametrize("shape", [(33, 3, 9, 12), (33, 1, 9, 12), (1, 3, 5, 5), (20, 3, 1, 1)])
def test_policies_keep_shape_and_input(
    policy: Callable[[Tensor], Tensor], shape: tuple[int, ...], photos: Photos
) -> None:
    images = photos(*shape)
    before = images.clone()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(policy(images))
    assert results[0].shape == shape and results[0].dtype == torch.uint8
    assert torch.equal(results[0], results[1]) and torch.equal(images, before)
    assert len(images) == 1 or not torch.equal(results[0], results[2])


def test_signs(uniform: Callable[..., bool]) -> None:
    torch.manual_seed(0)
    signs = random_sign(4000, CPU)
    assert uniform([(signs == 1).sum(), (signs == -1).sum()]) and (signs.abs() == 1).all()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"num_ops": 0}, "num_ops=0 is not a whole number from 1"),
        ({"num_ops": 1.5}, "num_ops=1.5 is not a whole number from 1"),
        ({"magnitude": 10.1}, r"magnitude=10.1 is not in \[0, 10\]"),
        ({"magnitude": math.nan}, r"magnitude=nan is not in \[0, 10\]"),
        ({"magnitude_std": -1}, "magnitude_std=-1 is not a number from 0"),
        ({"magnitude_std": math.inf}, "magnitude_std=inf is not a number from 0"),
    ],
)
def test_values_outside_their_range(values: dict[str, float], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        RandAugment(**values)
