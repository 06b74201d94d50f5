"""Random-resized crops: a part of each image, its own, brought to one size."""

import torch
from torch import Tensor

from vitkit.data.augment.box import random_boxes
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
    rows = _weights(images.shape[-2], top, height)[:, None]  # (B, 1, H, H)
    columns = _weights(images.shape[-1], left, width)[:, None]  # (B, 1, W, W)
    across = images.float() @ columns.mT
    across = across.add_(0.5).floor_().clamp_(0, 255)  # as Pillow, between its two passes
    return to_uint8((rows @ across).add_(0.5))


def _weights(side: int, start: Tensor, length: Tensor) -> Tensor:
    """Share of each pixel of a side in each pixel of the enlarged part: (B,) -> (B, side, side)."""
    start, length = start[:, None, None], length[:, None, None]
    pixel = torch.arange(side, device=start.device)
    centre = start + (pixel[:, None] + 0.5) * (length / side)
    weight = _cubic(pixel + 0.5 - centre)
    weight = weight * ((pixel >= start) & (pixel < start + length))
    return weight / weight.sum(-1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2, as Pillow's bicubic: at distances in pixels, any shape."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, far * (x < 2))
