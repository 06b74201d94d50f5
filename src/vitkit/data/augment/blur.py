"""Sharper and softer images, by their neighbourhoods: (B, C, H, W) uint8 -> the same."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.data.augment.colour import blend
from vitkit.data.augment.levels import per_image, to_uint8

BOXES = 3  # blurs by a box that make one by a Gaussian


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """0 is smoothed, 1 leaves the image, 2 doubles what smoothing takes away; `factor` is (B,).

    Pillow's `ImageEnhance.Sharpness` to the bit.
    """
    return blend(_smooth(images), images, factor)


def _smooth(images: Tensor) -> Tensor:
    """Each pixel 5 times and its 8 neighbours once, rounded; the outermost pixels stay: float."""
    x = images.to(torch.int16)
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * x[..., 1:-1, 1:-1]
    smooth = images.float()
    smooth[..., 1:-1, 1:-1] = (total / 13).add_(0.5).floor_()
    return smooth


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels, (B,), above 0; the border is continued outwards.

    Three boxes stand for the Gaussian (Gwosdek et al. 2011, "Theoretical foundations of Gaussian
    convolution by extended box filtering"), rounded after each, as in Pillow's `GaussianBlur`;
    within one level of it, which computes in 24 bits after the point.
    """
    radius = _box_radius(sigma.float())
    reach = int(radius.max().ceil())
    x = images.float()
    for axis in (3, 2):
        for _ in range(BOXES):
            x = _box_blur(x, per_image(radius), reach, axis)
    return to_uint8(x)


def _box_radius(sigma: Tensor) -> Tensor:
    """Pixels on either side of the middle, and a fraction of the next, for a box: (B,) -> (B,)."""
    variance = sigma**2 / BOXES
    whole = ((torch.sqrt(12 * variance + 1) - 1) / 2).floor()
    excess = whole * (whole + 1) - 3 * variance
    return whole + (2 * whole + 1) * excess / (6 * (variance - (whole + 1) ** 2))


def _box_blur(x: Tensor, radius: Tensor, reach: int, axis: int) -> Tensor:
    """Mean over the pixels within `radius`, the outermost by a fraction, rounded."""
    side = x.shape[axis]
    padded = F.pad(x, (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach), mode="replicate")
    total, pair = x.clone(), torch.empty_like(x)
    for step in range(1, reach + 1):
        before, after = (padded.narrow(axis, reach + way, side) for way in (-step, step))
        torch.add(before, after, out=pair)
        total.addcmul_(pair, (radius + 1 - step).clamp(0, 1))
    return total.div_(2 * radius + 1).add_(0.5).floor_()
