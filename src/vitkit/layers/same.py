"""SAME padding, as TensorFlow and JAX have it: the stride alone says how large a map becomes."""

import torch.nn.functional as F
from torch import Tensor, nn


def pad_same(x: Tensor, kernel_size: int, stride: int, *, value: float = 0.0) -> Tensor:
    """Pad a map so that a kernel gives ceil(h / stride) cells: (B, C, h, w) -> (B, C, h', w').

    What is missing is shared by both ends of a side; one too many goes below or to the right.
    """
    down, across = (max(kernel_size - 1 - (side - 1) % stride, 0) for side in x.shape[-2:])
    if not (down or across):
        return x
    edges = (across // 2, across - across // 2, down // 2, down - down // 2)
    return F.pad(x, edges, value=value)


class MaxPoolSame(nn.Module):
    """The largest value under a kernel: (B, C, h, w) -> (B, C, ceil(h / s), ceil(w / s))."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        x = pad_same(x, self.kernel_size, self.stride, value=float("-inf"))
        return F.max_pool2d(x, self.kernel_size, self.stride)
