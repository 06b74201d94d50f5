"""Different changes for different images of a batch."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor


def change_as_chosen(
    images: Tensor,
    choice: Tensor,
    changes: Collection[Callable[..., Tensor]],
    *parameters: Tensor,
) -> Tensor:
    """Change each image by the one of `changes` whose place it has in `choice`, (B,) int64.

    An image with -1 is left alone. Images are sorted by their change, each change is called once,
    with its images and their `parameters`, each (B,), and they are put back: (B, C, H, W) uint8 ->
    the same.
    """
    order = choice.argsort()
    counts = torch.bincount(choice + 1, minlength=len(changes) + 1).tolist()
    split = (tensor.index_select(0, order).split(counts) for tensor in (images, *parameters))
    (untouched, *_), *groups = zip(*split, strict=True)
    changed = [
        change(*group) if len(group[0]) else group[0]
        for change, group in zip(changes, groups, strict=True)
    ]
    return torch.cat([untouched, *changed]).index_select(0, order.argsort())
