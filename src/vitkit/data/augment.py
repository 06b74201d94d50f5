"""Batched augmentation: on the batch's device, with its own parameters for every image.

Random draws come from torch's generator of that device.
"""

import torch
from torch import Tensor


def random_mirror(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2: (B, C, H, W) -> (B, C, H, W)."""
    return mirror(images, torch.rand(len(images), device=images.device) < 0.5)


def random_shift(images: Tensor, share: float) -> Tensor:
    """Move each image by up to `share` of its height and width, whole pixels, each as likely.

    The same as padding by reflection and cropping at random: (B, C, H, W) -> (B, C, H, W).
    """
    offsets = []
    for side in images.shape[-2:]:
        most = min(round(side * share), side - 1)
        offsets.append(torch.randint(-most, most + 1, (len(images),), device=images.device))
    return shift(images, offsets[0], offsets[1])


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Mirror the images for which `which`, (B,) bool, is true: (B, C, H, W) -> (B, C, H, W)."""
    return torch.where(which[:, None, None, None], images.flip(-1), images)


def shift(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image by its own number of pixels, (B,) int; what enters is reflected.

    (B, C, H, W) -> (B, C, H, W); a shift is smaller than the side it goes along.
    """
    rows = _reflected(images.shape[-2], down)  # (B, H)
    columns = _reflected(images.shape[-1], right)  # (B, W)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _reflected(side: int, offset: Tensor) -> Tensor:
    """Which row each output row is read from, reflecting at the border: (B,) -> (B, side)."""
    position = torch.arange(side, device=offset.device) - offset[:, None]
    last = side - 1
    return last - (last - position.abs()).abs()
