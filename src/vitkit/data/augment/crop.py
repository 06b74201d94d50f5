"""Random-resized crops: a part of each image, its own, brought to one size."""

import torch
from torch import Tensor

from vitkit.data.augment.box import random_boxes
from vitkit.data.augment.geometry import take_rows
from vitkit.data.augment.levels import to_uint8


def random_resized_crop(
    images: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Cut a random part out of each image and enlarge it: (B, C, H, W) uint8 -> the same.

    `scale` is the part's share of the area, `ratio` its width to height; both are drawn as
    torchvision's `RandomResizedCrop` draws them (arXiv:1409.4842, section 6).
    """
    frame = images.shape[-2], images.shape[-1]
    boxes = random_crops(len(images), frame, scale, ratio, images.device)
    return resized_crop(images, boxes)


def random_crops(
    count: int,
    frame: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    device: torch.device,
) -> Tensor:
    """Boxes of which none is larger than the frame, (B, 4); the middle where ten draws are."""
    boxes, fits = random_boxes(count, frame, area=scale, ratio=ratio, largest=frame, device=device)
    middle = torch.tensor(_middle(frame, ratio), device=device)
    return torch.where(fits[:, None], boxes, middle)


def _middle(frame: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest box in the middle of the frame whose width to height is within `ratio`."""
    height, width = frame
    if width < ratio[0] * height:
        height = max(round(width / ratio[0]), 1)
    elif width > ratio[1] * height:
        width = max(round(height * ratio[1]), 1)
    return (frame[0] - height) // 2, (frame[1] - width) // 2, height, width


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Cut out each image's box and enlarge it: (B, C, H, W) uint8, (B, 4) -> (B, C, H, W).

    Bicubic, as Pillow's `crop` and `resize`: pixels outside the box have no say. Within one level,
    and two at one pixel in 100,000, since Pillow's weights have 22 bits after the point.
    """
    top, left, height, width = boxes.unbind(1)
    across = _stretched(images.mT, left, width)  # whole rows are read faster than columns
    return _stretched(across.mT, top, height)


def _stretched(images: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Stretch `length` rows from `start` on, each (B,), over the whole image."""
    x = images.contiguous().float()
    side = x.shape[-2]
    start, end = start[:, None], (start + length)[:, None]
    written = torch.arange(side, device=x.device) + 0.5
    centre = start + written * ((end - start) / side)  # (B, H), where each row comes from
    total, read, weights = torch.zeros_like(x), torch.empty_like(x), torch.zeros_like(centre)
    for step in (-1, 0, 1, 2):  # the kernel is 4 rows wide
        row = (centre - 0.5).floor() + step
        weight = _cubic(row + 0.5 - centre) * ((row >= start) & (row < end))
        take_rows(x, row.long().clamp(0, side - 1), out=read)
        total.addcmul_(read, weight[:, None, :, None])
        weights += weight
    return to_uint8(total.div_(weights[:, None, :, None]).add_(0.5))


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2, as Pillow's bicubic: at distances in pixels, any shape."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, far * (x < 2))
