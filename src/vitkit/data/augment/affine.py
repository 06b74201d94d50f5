"""Images turned, slanted and moved by fractions of pixels: (B, C, H, W) uint8 -> the same.

Bilinear, as Pillow's `Image.transform`: a pixel that comes from outside the image is `FILL`, and
near the border the outermost pixels count for those beyond. Within one level of Pillow, whose
float64 falls on the other side of a whole level now and then.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.data.augment.levels import to_uint8

FILL = 128  # grey; Pillow's own is black


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image about its middle, counter-clockwise; `degrees` is (B,)."""
    angle = degrees.float().deg2rad()
    cosine, sine = angle.cos(), angle.sin()
    height, width = images.shape[-2:]
    x, y = width / 2, height / 2  # what stays where it is
    across = torch.stack([cosine, -sine, x - x * cosine + y * sine], dim=-1)
    down = torch.stack([sine, cosine, y - x * sine - y * cosine], dim=-1)
    return affine(images, across, down)


def shear_x(images: Tensor, factor: Tensor) -> Tensor:
    """Move each row to the left by `factor`, (B,), times its distance from the top edge."""
    return _axis(images, 0, slant=factor)


def shear_y(images: Tensor, factor: Tensor) -> Tensor:
    """Move each column up by `factor`, (B,), times its distance from the left edge."""
    return _axis(images, 1, slant=factor)


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Move each image to the left by a number of pixels, (B,), that need not be whole."""
    return _axis(images, 0, offset=pixels)


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Move each image up by a number of pixels, (B,), that need not be whole."""
    return _axis(images, 1, offset=pixels)


def _axis(
    images: Tensor, axis: int, *, slant: Tensor | None = None, offset: Tensor | None = None
) -> Tensor:
    """Change where pixels come from along one axis, 0 for across, by one number for each image."""
    rows = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)  # (B, 2, 3)
    if slant is not None:
        rows[:, axis, 1 - axis] = slant.float()
    if offset is not None:
        rows[:, axis, 2] = offset.float()
    return affine(images, rows[:, 0], rows[:, 1])


def affine(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Read the pixel at (x, y) from where two rows of a matrix say, each (B, 3).

    `across[0] * x + across[1] * y + across[2]` is how far from the left edge, `down` likewise from
    the top, both in pixels; the middle of the first pixel is at (0.5, 0.5).
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    from_x, from_y = (
        row[:, 0, None, None] * x + row[:, 1, None, None] * y + row[:, 2, None, None]
        for row in (across, down)
    )  # (B, H, W)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    places = torch.stack([from_x * (2 / width) - 1, from_y * (2 / height) - 1], dim=-1)
    read = F.grid_sample(images.float(), places, padding_mode="border", align_corners=False)
    read = read.add_(1e-3)  # else a flat area, 127.9999, would lose a level when fractions go
    return to_uint8(read.sub_(FILL).mul_(inside[:, None]).add_(FILL))
