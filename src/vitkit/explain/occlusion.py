"""What is lost when a part of the image is covered."""

import torch
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.gradients import AT_ONCE
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

STRIDES = 14  # along the shorter side, by default


def occlusion(
    model: Backbone,
    x: Tensor,
    target: Target,
    *,
    size: int | None = None,
    stride: int | None = None,
    baseline: float = 0.0,
) -> Tensor:
    """How far the score falls with a square over each place: (B, C, H, W) -> (B, h, w), with sign.

    Occlusion (arXiv:1311.2901, section 4.2). Squares of `size` pixels, `stride` apart, filled with
    `baseline`, which is of normalised pixels: 0 is the mean that the model was trained with. Each
    pixel gets the mean over the squares that cover it, each cell of `stride` pixels that over them.
    By default a square is a seventh of the shorter side and twice as wide as the stride: 32 and 16
    pixels at 224.

    Raises:
        ConfigError: a size or stride below 1, gaps between squares, or squares that are larger
            than both sides.
    """
    height, width = x.shape[2:]
    usual = max(round(min(height, width) / STRIDES), 1)
    if stride is None:
        stride = usual if size is None else max(size // 2, 1)
    if size is None:
        size = min(2 * stride, max(height, width))
    if not 1 <= stride <= size:
        raise ConfigError(f"size={size}, stride={stride}: need 1 <= stride <= size; try 32 and 16")
    if size > max(height, width):
        raise ConfigError(
            f"size={size} is larger than the image, {width} x {height} pixels; try {2 * usual}"
        )
    tops, lefts = (_begins(side, size, stride) for side in (height, width))
    places = [(top, left) for top in tops for left in lefts]
    fallen = torch.zeros(len(x), height, width, device=x.device)
    counts = torch.zeros(height, width, device=x.device)
    each = max(AT_ONCE // len(x), 1)
    with torch.no_grad():
        whole = target.score(model(x))  # (B,)
        for begin in range(0, len(places), each):
            some = places[begin : begin + each]
            covered = x[:, None].repeat(1, len(some), 1, 1, 1)  # (B, s, C, H, W)
            for i, (top, left) in enumerate(some):
                covered[:, i, :, top : top + size, left : left + size] = baseline
            scores = target.repeat(len(some)).score(model(covered.flatten(0, 1)))
            drops = whole[:, None] - scores.unflatten(0, (len(x), -1))
            for i, (top, left) in enumerate(some):
                fallen[:, top : top + size, left : left + size] += drops[:, i, None, None]
                counts[top : top + size, left : left + size] += 1
    return _cells(fallen / counts, stride)


def _begins(side: int, size: int, stride: int) -> list[int]:
    """Where squares begin so that they cover a side, the last one flush with its end."""
    last = max(side - size, 0)
    return sorted({*range(0, last, stride), last})


def _cells(image: Tensor, stride: int) -> Tensor:
    """The mean of every cell of `stride` pixels, the last ones perhaps smaller: -> (B, h, w)."""
    return torch.nn.functional.avg_pool2d(image, stride, ceil_mode=True)
