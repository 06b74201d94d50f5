"""Cutting a part out of each image of a batch and bringing all parts to one size."""

from math import ceil

import torch
from torch import Tensor

from vitkit.data.augment.geometry import take_rows
from vitkit.data.augment.levels import to_uint8


def resized_crop(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut out each image's box and resize it: (B, C, H, W) uint8, (B, 4) -> (B, C, h, w) uint8.

    A box is top, left, height and width in pixels, perhaps between them. Bicubic, as Pillow's
    `crop` and `resize`: pixels outside the box have no say, and what shrinks does so by area; first
    across, then down.
    Within one level, and two at one pixel in 100,000, since Pillow's weights have 22 bits after the
    point.
    """
    top, left, height, width = boxes.to(images.device, torch.float32).unbind(1)
    across = _resized(images.mT, left, width, size[1])  # whole rows are read faster than columns
    return _resized(across.mT, top, height, size[0])


def _resized(images: Tensor, start: Tensor, length: Tensor, side: int) -> Tensor:
    """Make `side` rows of `length` rows from `start` on, each (B,)."""
    x = images.contiguous().float()
    start, end = start[:, None], (start + length)[:, None].clamp_max(x.shape[-2])
    written = torch.arange(side, device=x.device) + 0.5
    centre = start + written * ((end - start) / side)  # (B, side), where each row comes from
    wide = ((end - start) / side).clamp_min(1)  # rows that the kernel's unit spans
    reach = 2 * ceil(max(x.shape[-2] / side, 1))  # of the widest kernel to either side, in rows
    total = x.new_zeros(*x.shape[:2], side, x.shape[-1])
    read, weights = torch.empty_like(total), torch.zeros_like(centre)
    for step in range(1 - reach, reach + 1):
        row = (centre - 0.5).floor() + step
        weight = _cubic((row + 0.5 - centre) / wide) * ((row + 1 > start) & (row < end))
        take_rows(x, row.long().clamp(0, x.shape[-2] - 1), out=read)
        total.addcmul_(read, weight[:, None, :, None])
        weights += weight
    return to_uint8(total.div_(weights[:, None, :, None]).add_(0.5))


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2, as Pillow's bicubic: at distances in pixels, any shape."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, far * (x < 2))
