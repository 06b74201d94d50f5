"""Grey levels, 0 to 255: as floating point and back, of one image or another, of colours."""

import torch
from torch import Tensor


def per_image(values: Tensor) -> Tensor:
    """One value for all pixels of an image: (B,) -> (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def to_uint8(x: Tensor) -> Tensor:
    """Cut to [0, 255] and drop the fraction, as Pillow does; floats of any shape, not changed.

    By way of int16, since torch turns floats straight into uint8 one by one: four times slower.
    """
    return x.clamp(0, 255).to(torch.int16).to(torch.uint8)


def luminance(images: Tensor) -> Tensor:
    """Brightness of each pixel in whole levels (ITU-R BT.601): (B, C, H, W) -> (B, 1, H, W) float.

    To the bit Pillow's `convert("L")`: no sum reaches 2^24, so float32 holds them all exactly.
    """
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().split(1, dim=1)
    total: Tensor = red * 19595 + green * 38470 + blue * 7471
    return total.add_(32768).mul_(2**-16).floor_()


def widest_float(device: torch.device) -> torch.dtype:
    """For sums and factors that are to be exact: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
