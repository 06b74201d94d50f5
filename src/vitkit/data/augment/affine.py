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
    y, x = images.shape[-2] / 2, images.shape[-1] / 2  # what stays where it is
    across = [cosine, -sine, x - x * cosine + y * sine]
    down = [sine, cosine, y - x * sine - y * cosine]
    return affine(images, torch.stack(across + down, dim=-1).view(-1, 2, 3))


def shear_x(images: Tensor, factor: Tensor) -> Tensor:
    """Move each row to the left by `factor`, (B,), times its distance from the top edge."""
    return affine(images, _identity_but(0, 1, factor))


def shear_y(images: Tensor, factor: Tensor) -> Tensor:
    """Move each column up by `factor`, (B,), times its distance from the left edge."""
    return affine(images, _identity_but(1, 0, factor))


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Move each image to the left by a number of pixels, (B,), that need not be whole."""
    return affine(images, _identity_but(0, 2, pixels))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Move each image up by a number of pixels, (B,), that need not be whole."""
    return affine(images, _identity_but(1, 2, pixels))


def _identity_but(row: int, column: int, values: Tensor) -> Tensor:
    """Matrices that move nothing but by one entry, (B,): (B, 2, 3)."""
    matrix = torch.eye(2, 3, device=values.device).repeat(len(values), 1, 1)
    matrix[:, row, column] = values
    return matrix


def affine(images: Tensor, matrix: Tensor) -> Tensor:
    """Read the pixel at (x, y) from `matrix @ (x, y, 1)`, each image by its own: (B, 2, 3).

    x and y are in pixels from the upper left corner; the middle of the first is at (0.5, 0.5).
    """
    height, width = images.shape[-2:]
    x = torch.arange(0.5, width, device=images.device)
    y = torch.arange(0.5, height, device=images.device)[:, None]
    by_x, by_y, offset = matrix[..., None, None].unbind(2)  # each (B, 2, 1, 1)
    source = by_y * y + offset + by_x * x  # (B, 2, H, W)
    ends = torch.tensor([width, height], device=images.device).view(2, 1, 1)
    inside = ((source >= 0) & (source < ends)).all(1, keepdim=True)
    places = (source * (2 / ends) - 1).permute(0, 2, 3, 1)  # from -1 to 1
    read = F.grid_sample(images.float(), places, padding_mode="border", align_corners=False)
    read = read.add_(1e-3)  # else a flat area, 127.9999, would lose a level when fractions go
    return to_uint8(torch.where(inside, read, FILL))
