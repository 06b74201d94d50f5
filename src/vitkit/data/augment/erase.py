"""Random erasing (arXiv:1708.04896): a box of noise in some images."""

import torch
from torch import Tensor

from vitkit.data.augment.box import inside, random_boxes

AREA = (0.02, 1 / 3)  # share of the image
RATIO = (0.3, 1 / 0.3)  # width to height


def random_erase(batch: Tensor, probability: float) -> Tensor:
    """Fill a random box with normal noise, in each image with this probability.

    (B, C, H, W), normalised floats, -> the same. As timm with one box and `mode="pixel"`: the
    area has its share from `AREA`, where the paper's ends at 0.4, and a box is smaller than the
    image on both sides; where ten draws give none, nothing is erased.
    """
    count, channels, height, width = batch.shape
    boxes, fits = random_boxes(
        count, (height, width), area=AREA, ratio=RATIO, largest=(height - 1, width - 1),
        device=batch.device,
    )  # fmt: skip
    chosen = fits & (torch.rand(count, device=batch.device) < probability)
    return erase(batch, boxes, chosen)


def erase(batch: Tensor, boxes: Tensor, which: Tensor) -> Tensor:
    """Fill the boxes, (B, 4), of the images for which `which`, (B,) bool, is true with noise."""
    mask = inside(boxes, (batch.shape[-2], batch.shape[-1])) & which[:, None, None, None]
    pixels = int(mask.sum())
    noise = torch.randn(pixels * batch.shape[1], dtype=batch.dtype, device=batch.device)
    erased = batch.masked_scatter(mask, noise)  # whatever lay innermost, rows do now
    last = batch.is_contiguous(memory_format=torch.channels_last)
    return erased.contiguous(memory_format=torch.channels_last) if last else erased
