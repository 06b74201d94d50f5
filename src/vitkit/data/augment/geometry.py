"""Whole pixels moved: mirroring and shifting, of images of any type."""

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
    both = torch.cat([images, images.flip(-1)])  # whole images are copied 4 times faster than
    image = torch.arange(len(images), device=images.device)  # `where` chooses pixels
    return both.index_select(0, image + len(images) * which)


def shift(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image by its own number of pixels, (B,) int; what enters is reflected.

    (B, C, H, W) -> (B, C, H, W); a shift is smaller than the side it goes along.
    """
    rows = _reflected(images.shape[-2], down)
    columns = _reflected(images.shape[-1], right)[:, None, None]  # (B, 1, 1, W)
    return take_rows(images, rows).gather(3, columns.expand(images.shape))


def take_rows(images: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """Make each image of some of its rows, (B, h) int64: (B, C, H, W) -> (B, C, h, W).

    `out` may be given to write to: in a loop, that saves asking for memory again and again.
    """
    count, channels, height, width = images.shape
    plane = torch.arange(count * channels, device=images.device).view(count, channels, 1)
    of_all = (plane * height + rows[:, None]).flatten()  # of all rows of the batch
    flat = None if out is None else out.view(-1, width)
    taken = torch.index_select(images.reshape(-1, width), 0, of_all, out=flat)
    return taken.view(count, channels, rows.shape[1], width)


def _reflected(side: int, offset: Tensor) -> Tensor:
    """Which row each output row is read from, reflecting at the border: (B,) -> (B, side)."""
    position = torch.arange(side, device=offset.device) - offset[:, None]
    last = side - 1
    return last - (last - position.abs()).abs()
