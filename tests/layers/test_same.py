"""SAME padding against TensorFlow's definition, cell by cell."""

import math

import pytest
import torch
from torch import Tensor

from vitkit.layers.same import MaxPoolSame, pad_same


def windows(x: Tensor, kernel_size: int, stride: int, outside: float) -> Tensor:
    """What the kernel sees at each place of one channel, (h, w) -> (h', w', k, k).

    TensorFlow's guide to padding: there are ceil(n / stride) places, the first of which begins half
    of all missing cells, rounded down, before the map.
    """

    def starts(side: int) -> list[int]:
        places = math.ceil(side / stride)
        missing = max((places - 1) * stride + kernel_size - side, 0)
        return [place * stride - missing // 2 for place in range(places)]

    def cell(row: int, column: int) -> float:
        inside = 0 <= row < x.shape[0] and 0 <= column < x.shape[1]
        return x[row, column].item() if inside else outside

    reach = range(kernel_size)
    return torch.tensor(
        [
            [[[cell(r + i, c + j) for j in reach] for i in reach] for c in starts(x.shape[1])]
            for r in starts(x.shape[0])
        ]
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (9, 5), (1, 2)])
@pytest.mark.parametrize(
    ("kernel_size", "stride"), [(1, 1), (1, 2), (2, 2), (3, 2), (7, 2), (3, 4)]
)
def test_kernels_see_what_tensorflow_shows_them(
    size: tuple[int, int], kernel_size: int, stride: int
) -> None:
    x = torch.arange(1.0, 1 + math.prod(size)).reshape(size)
    padded = pad_same(x[None, None], kernel_size, stride, value=-5.0)
    seen = padded[0, 0].unfold(0, kernel_size, stride).unfold(1, kernel_size, stride)
    assert torch.equal(seen, windows(x, kernel_size, stride, outside=-5.0))


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (9, 5), (1, 2)])
def test_padding_is_never_the_largest(size: tuple[int, int]) -> None:
    x = -1 - torch.rand(1, 1, *size)
    expected = windows(x[0, 0], 3, 2, outside=float("-inf")).amax(dim=(2, 3))
    assert torch.equal(MaxPoolSame(3, 2)(x)[0, 0], expected)


def test_nothing_missing_is_nothing_copied() -> None:
    x = torch.randn(1, 2, 8, 8)
    assert pad_same(x, 2, 2) is x
