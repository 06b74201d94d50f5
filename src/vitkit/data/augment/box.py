"""Random boxes in an image: (B, 4) int64, each of top, left, height and width in pixels."""

from math import log

import torch
from torch import Tensor

TRIES = 10  # to find a box that fits


def random_boxes(
    count: int,
    frame: tuple[int, int],
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
    largest: tuple[int, int],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Draw `count` boxes inside `frame`, height and width, and say which of them fit, (B,) bool.

    `area` is a share of the frame, uniform; `ratio` is width to height, uniform in its logarithm.
    The first of ten draws counts that is neither empty nor above `largest`; the box of an image
    for which there is none has no meaning.
    """
    low, high = area
    shares = low + (high - low) * torch.rand(count, TRIES, device=device)
    low, high = log(ratio[0]), log(ratio[1])
    ratios = torch.exp(low + (high - low) * torch.rand(count, TRIES, device=device))
    pixels = shares * (frame[0] * frame[1])
    heights, widths = (pixels / ratios).sqrt().round(), (pixels * ratios).sqrt().round()
    fits = (heights >= 1) & (heights <= largest[0]) & (widths >= 1) & (widths <= largest[1])
    first = fits.long().argmax(1, keepdim=True)
    height, width = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    top, left = (
        (torch.rand(count, device=device) * (side - length + 1)).floor()
        for side, length in zip(frame, (height, width), strict=True)
    )
    return torch.stack([top, left, height, width], dim=1).long(), fits.any(1)


def inside(boxes: Tensor, frame: tuple[int, int]) -> Tensor:
    """Which pixels of the frame lie in the box: (B, 4) -> (B, 1, H, W) bool."""
    top, left, height, width = boxes[:, :, None].unbind(1)  # each (B, 1)
    row, column = (torch.arange(side, device=boxes.device) for side in frame)
    rows = (row >= top) & (row < top + height)  # (B, H)
    columns = (column >= left) & (column < left + width)  # (B, W)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
