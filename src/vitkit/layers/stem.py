"""A convolutional stem: early convolutions help transformers see better (arXiv:2106.14881)."""

from collections.abc import Sequence
from itertools import groupby, pairwise
from math import prod

from torch import nn

from vitkit.layers.norm import BatchNorm


def stem_strides(widths: Sequence[int]) -> list[int]:
    """The stride of each convolution: 1 where the width stays, 2 at the first and where it grows.

    So the paper's section 3 has it: those of stride 2 double the width.
    """
    return [1 if before == width else 2 for before, width in pairwise((0, *widths))]


def stem_stride(widths: Sequence[int], *, pool: bool = False) -> int:
    """Pixels that convolutions of `widths` make one cell of, with a `pool` after each width."""
    return int(2 ** len(list(groupby(widths)))) if pool else prod(stem_strides(widths))


class ConvStem(nn.Sequential):
    """3x3 convolutions of `widths` channels, each with batch norm and ReLU.

    (B, C, H, W) -> (B, widths[-1], ceil(H / s), ceil(W / s)), s the product of all strides. The 1x1
    convolution that ends the paper's stem is the patch projection after it. With `pool` no
    convolution strides, and the largest of 2x2 cells is taken after the last of each width, as in
    VGG (arXiv:1409.1556): dearer, but better on small images.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], *, pool: bool = False) -> None:
        channels = pairwise((in_channels, *widths))
        strides = [1] * len(widths) if pool else stem_strides(widths)
        layers: list[nn.Module] = []
        for (before, width), stride in zip(channels, strides, strict=True):
            if pool and layers and before != width:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            layers.append(ConvNormReLU(before, width, stride))
        if pool:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        super().__init__(*layers)


class ConvNormReLU(nn.Sequential):
    """A 3x3 convolution, batch norm, ReLU: (B, C, h, w) -> (B, D, ceil(h / s), ceil(w / s))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn = BatchNorm(out_channels)
        self.act = nn.ReLU()
