"""Policies: which operations are applied to which image, and how strongly."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from numbers import Integral, Real

import torch
from torch import Tensor

from vitkit.data.augment.affine import rotate, shear_x, shear_y, translate_x, translate_y
from vitkit.data.augment.blur import gaussian_blur, sharpness
from vitkit.data.augment.chosen import change_as_chosen
from vitkit.data.augment.colour import brightness, contrast, grey, saturation
from vitkit.data.augment.tone import (
    autocontrast,
    equalise,
    invert,
    posterise,
    solarise,
    solarise_add,
)
from vitkit.errors import ConfigError

# Changes images, (b, C, H, W), by a strength from 0 to 1 and a sign, 1 or -1, each (b,).
Operation = Callable[[Tensor, Tensor, Tensor], Tensor]

MOST = 10.0  # the highest magnitude
STEPS = 30  # from TrivialAugment's weakest magnitude to its strongest

RAND_AUGMENT: dict[str, Operation] = {
    "autocontrast": lambda x, level, sign: autocontrast(x),
    "equalise": lambda x, level, sign: equalise(x),
    "invert": lambda x, level, sign: invert(x),
    "rotate": lambda x, level, sign: rotate(x, 30 * level * sign),
    "posterise": lambda x, level, sign: posterise(x, (4 - (4 * level).int()).clamp(min=1)),
    "solarise": lambda x, level, sign: solarise(x, 256 - (256 * level).floor()),
    "solarise_add": lambda x, level, sign: solarise_add(x, (110 * level).long()),
    "saturation": lambda x, level, sign: saturation(x, 1 + 0.9 * level * sign),
    "contrast": lambda x, level, sign: contrast(x, 1 + 0.9 * level * sign),
    "brightness": lambda x, level, sign: brightness(x, 1 + 0.9 * level * sign),
    "sharpness": lambda x, level, sign: sharpness(x, 1 + 0.9 * level * sign),
    "shear_x": lambda x, level, sign: shear_x(x, 0.3 * level * sign),
    "shear_y": lambda x, level, sign: shear_y(x, 0.3 * level * sign),
    "translate_x": lambda x, level, sign: translate_x(x, 0.45 * level * sign * x.shape[-1]),
    "translate_y": lambda x, level, sign: translate_y(x, 0.45 * level * sign * x.shape[-2]),
}

TRIVIAL_AUGMENT: dict[str, Operation] = {
    "identity": lambda x, level, sign: x,
    "shear_x": lambda x, level, sign: shear_x(x, 0.99 * level * sign),
    "shear_y": lambda x, level, sign: shear_y(x, 0.99 * level * sign),
    "translate_x": lambda x, level, sign: translate_x(x, (32 * level).floor() * sign),
    "translate_y": lambda x, level, sign: translate_y(x, (32 * level).floor() * sign),
    "rotate": lambda x, level, sign: rotate(x, 135 * level * sign),
    "brightness": lambda x, level, sign: brightness(x, 1 + 0.99 * level * sign),
    "saturation": lambda x, level, sign: saturation(x, 1 + 0.99 * level * sign),
    "contrast": lambda x, level, sign: contrast(x, 1 + 0.99 * level * sign),
    "sharpness": lambda x, level, sign: sharpness(x, 1 + 0.99 * level * sign),
    "posterise": lambda x, level, sign: posterise(x, 8 - (6 * level).round().int()),
    "solarise": lambda x, level, sign: solarise(x, 8.5 * (STEPS * (1 - level)).round()),
    "autocontrast": lambda x, level, sign: autocontrast(x),
    "equalise": lambda x, level, sign: equalise(x),
}

THREE_AUGMENT: dict[str, Operation] = {
    "grey": lambda x, level, sign: grey(x),
    "solarise": lambda x, level, sign: solarise(x, torch.full_like(level, 128)),
    "blur": lambda x, level, sign: gaussian_blur(x, 0.1 + 1.9 * level),
}


@dataclass(frozen=True, slots=True)
class Draw:
    """What happens to each image of a batch, all (B,)."""

    choice: Tensor  # int64, the operation's place in its table; -1 leaves the image alone
    level: Tensor  # float, 0 to 1
    sign: Tensor  # float, 1 or -1

    def apply(self, images: Tensor, table: dict[str, Operation]) -> Tensor:
        """Apply to each image its own operation of `table`: (B, C, H, W) uint8 -> the same."""
        return change_as_chosen(images, self.choice, table.values(), self.level, self.sign)


def random_sign(count: int, device: torch.device) -> Tensor:
    """1 or -1, each as likely, (B,) float."""
    return 1.0 - 2.0 * torch.randint(2, (count,), device=device)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandAugment:
    """`num_ops` random operations one after the other (arXiv:1909.13719), as timm has them.

    This is timm's `rand-m9-n2-mstd0.5-inc1`, the policy of DeiT and Swin: each operation is left
    out with probability 1/2, its magnitude is normal with deviation `magnitude_std` and cut to
    [0, 10], and all grow with it. In the paper and in torchvision none is left out, the magnitude
    is fixed, up to 30, and posterise and solarise weaken as it grows; the paper has cutout, and
    neither has inversion or the addition to dark levels. Other than in timm, pixels are read
    bilinearly, never bicubically, `FILL` replaces the data's mean, and posterise keeps a bit at
    least, where magnitude 10 keeps none in timm.

    Raises:
        ConfigError: a value outside its range.
    """

    num_ops: int = 2
    magnitude: float = 9.0  # 0 to 10
    magnitude_std: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.num_ops, Integral) or self.num_ops < 1:
            raise ConfigError(f"num_ops={self.num_ops!r} is not a whole number from 1; try 2")
        if not isinstance(self.magnitude, Real) or not 0 <= self.magnitude <= MOST:
            raise ConfigError(f"magnitude={self.magnitude!r} is not in [0, 10]; try 9")
        std = self.magnitude_std
        if not isinstance(std, Real) or not 0 <= std < inf:
            raise ConfigError(f"magnitude_std={std!r} is not a number from 0; try 0.5")

    def __call__(self, images: Tensor) -> Tensor:
        for _ in range(self.num_ops):
            images = self.draw(len(images), images.device).apply(images, RAND_AUGMENT)
        return images

    def draw(self, count: int, device: torch.device) -> Draw:
        """One operation for each image."""
        choice = torch.randint(len(RAND_AUGMENT), (count,), device=device)
        left_out = torch.rand(count, device=device) < 0.5
        magnitude = self.magnitude + self.magnitude_std * torch.randn(count, device=device)
        level = magnitude.clamp_(0, MOST) / MOST
        return Draw(choice.masked_fill_(left_out, -1), level, random_sign(count, device))


@dataclass(frozen=True, slots=True)
class TrivialAugment:
    """One random operation with a random strength, TrivialAugment Wide (arXiv:2103.10158).

    Operations and ranges are those of torchvision's `TrivialAugmentWide`: 31 magnitudes, each as
    likely. Other than there, pixels are read bilinearly, and what enters is `FILL`, not black.
    """

    def __call__(self, images: Tensor) -> Tensor:
        return self.draw(len(images), images.device).apply(images, TRIVIAL_AUGMENT)

    def draw(self, count: int, device: torch.device) -> Draw:
        """One operation for each image."""
        choice = torch.randint(len(TRIVIAL_AUGMENT), (count,), device=device)
        level = torch.randint(STEPS + 1, (count,), device=device) / STEPS
        return Draw(choice, level, random_sign(count, device))


@dataclass(frozen=True, slots=True)
class ThreeAugment:
    """Grey, solarised at 128 or blurred by 0.1 to 2 pixels: one of them, each as likely.

    DeiT III's 3-Augment (arXiv:2204.07118), which adds colour jitter afterwards.
    """

    def __call__(self, images: Tensor) -> Tensor:
        return self.draw(len(images), images.device).apply(images, THREE_AUGMENT)

    def draw(self, count: int, device: torch.device) -> Draw:
        """One operation for each image."""
        choice = torch.randint(len(THREE_AUGMENT), (count,), device=device)
        level = torch.rand(count, device=device)
        return Draw(choice, level, random_sign(count, device))
