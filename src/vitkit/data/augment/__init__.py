"""Batched augmentation: on the batch's device, with its own parameters for every image.

Images are (B, C, H, W) uint8, C being 1 or 3, and stay so; a parameter is (B,), one for each image.
Random draws come from torch's generator of the images' device.
"""

from vitkit.data.augment.geometry import mirror, random_mirror, random_shift, shift

__all__ = ["mirror", "random_mirror", "random_shift", "shift"]
