"""One grey level becomes another, wherever it is: (B, C, H, W) uint8 -> the same.

All are Pillow's `ImageOps` to the bit.
"""

import torch
from torch import Tensor

from vitkit.data.augment.levels import per_image, widest_float


def invert(images: Tensor) -> Tensor:
    """The negative."""
    return 255 - images


def posterise(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each level; `bits` is (B,) int, 0 (black) to 8."""
    kept = 256 - torch.pow(2, 8 - bits)
    return images & per_image(kept.to(torch.uint8))


def solarise(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels that are not below `threshold`, (B,), 0 to 256."""
    bright = images >= per_image(threshold)
    return bright.to(torch.uint8).mul_(255).bitwise_xor_(images)  # 8 times faster than `where`


def solarise_add(images: Tensor, amount: Tensor) -> Tensor:
    """Add `amount`, (B,) int, 0 to 255, to the levels below 128, and cut them at 255.

    timm's; not in Pillow.
    """
    level = torch.arange(256, device=images.device)
    table = level + (level < 128) * amount[:, None]
    return look_up(images, table.clamp(max=255)[:, None])


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel so that its levels reach from 0 to 255; a flat one is left alone."""
    dtype = widest_float(images.device)
    low = images.amin((2, 3)).to(dtype)[..., None]  # (B, C, 1)
    high = images.amax((2, 3)).to(dtype)[..., None]
    scale = torch.full_like(low, 255) / (high - low)  # infinite for a flat channel
    level = torch.arange(256, device=images.device)
    table = (level * scale - low * scale).clamp(0, 255)  # Pillow's arithmetic, of Python's floats
    return look_up(images, torch.where(high > low, table, level))


def equalise(images: Tensor) -> Tensor:
    """Spread each channel's levels so that all become as frequent, as near as may be.

    A channel in which fewer than 255 pixels are below its highest level is left alone.
    """
    count = histogram(images)  # (B, C, 256)
    total = count.cumsum(-1)
    highest = images.amax((2, 3)).long()[..., None]
    step = (images[0, 0].numel() - count.gather(-1, highest)) // 255  # (B, C, 1)
    table = (step // 2 + total - count) // step.clamp(min=1)
    level = torch.arange(256, device=images.device)
    return look_up(images, torch.where(step > 0, table.clamp(max=255), level))


def histogram(images: Tensor) -> Tensor:
    """How many pixels of each channel have each level: (B, C, H, W) -> (B, C, 256) int64."""
    planes = images.flatten(0, 1).flatten(1)  # (B * C, H * W)
    first = 256 * torch.arange(len(planes), dtype=torch.int32, device=images.device)
    counts = torch.bincount((planes + first[:, None]).flatten(), minlength=256 * len(planes))
    return counts.view(*images.shape[:2], 256)


def look_up(images: Tensor, table: Tensor) -> Tensor:
    """Replace each level by its entry in its image's table, (B, C, 256) or (B, 1, 256).

    Fractions of the entries, which are in [0, 255], are dropped.
    """
    entries = table.to(torch.uint8).expand(-1, images.shape[1], -1)
    return entries.gather(-1, images.flatten(2).long()).view(images.shape)
