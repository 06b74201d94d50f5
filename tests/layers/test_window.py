"""Windows, their shift and their attention against definitions written out by hand."""

import pytest
import torch
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.layers.window import (
    WindowAttention,
    fit_window,
    pad_to_multiple,
    partition,
    reverse,
    shift_mask,
)


@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [
        ((56, 56), (7, 7), (3, 3)),
        ((7, 7), (7, 7), (0, 0)),
        ((6, 8), (6, 7), (0, 3)),
        ((3, 5), (3, 5), (0, 0)),
    ],
)
def test_fit_window(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> None:
    assert fit_window(grid, 7) == (window, shift)


def test_partition_reads_windows_row_by_row() -> None:
    x = torch.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    windows = partition(x, (2, 3))
    assert windows.shape == (8, 6, 1)
    assert windows[1].flatten().tolist() == [3, 4, 5, 9, 10, 11]  # second window of the first row
    assert windows[6].flatten().tolist() == [36, 37, 38, 42, 43, 44]  # third window, second map


@pytest.mark.parametrize("window", [(2, 3), (4, 6), (1, 1), (4, 1)])
def test_reverse_undoes_partition(window: tuple[int, int]) -> None:
    x = torch.randn(3, 4, 6, 5)
    torch.testing.assert_close(reverse(partition(x, window), window, (4, 6)), x, rtol=0, atol=0)


def test_pad_to_multiple() -> None:
    x = torch.ones(1, 5, 6, 2)
    padded = pad_to_multiple(x, (4, 3))
    assert padded.shape == (1, 8, 6, 2)
    assert padded[:, 5:].abs().sum() == 0 and padded.sum() == x.sum()
    assert pad_to_multiple(x, (5, 6)) is x  # no copy where nothing is missing


def may_attend(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """May attend: as far apart in the rolled window as in the image, (windows, N, N)."""
    tokens = torch.arange(size[0] * size[1]).reshape(size).roll((-shift[0], -shift[1]), (0, 1))
    allowed = []
    for top in range(0, size[0], window[0]):
        for left in range(0, size[1], window[1]):
            cells = [(top + i, left + j) for i in range(window[0]) for j in range(window[1])]
            homes = [divmod(int(tokens[cell]), size[1]) for cell in cells]
            pairs = list(zip(cells, homes, strict=True))
            allowed.append(
                [
                    [a[0] - b[0] == c[0] - d[0] and a[1] - b[1] == c[1] - d[1] for b, d in pairs]
                    for a, c in pairs
                ]
            )
    return torch.tensor(allowed)


@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [
        ((8, 12), (4, 4), (2, 2)),
        ((14, 21), (7, 7), (3, 3)),
        ((6, 14), (6, 7), (0, 3)),
        ((9, 5), (3, 5), (1, 0)),
        ((4, 4), (4, 4), (0, 0)),
    ],
)
def test_shift_mask(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> None:
    mask = shift_mask(size, window, shift, dtype=torch.float64)
    assert mask.dtype == torch.float64
    assert set(mask.unique().tolist()) <= {0.0, -100.0}
    torch.testing.assert_close(mask == 0, may_attend(size, window, shift))


def written_out(layer: WindowAttention, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Equation 4 of the paper, one window and one head at a time: output and maps."""
    height, width = layer.window
    cells = [(i, j) for i in range(height) for j in range(width)]
    rows = [
        [(a[0] - b[0] + height - 1) * (2 * width - 1) + a[1] - b[1] + width - 1 for b in cells]
        for a in cells
    ]
    bias = layer.relative_position_bias_table[torch.tensor(rows)]  # (N, N, H)
    wq, wk, wv = layer.qkv.weight.chunk(3)
    bq, bk, bv = layer.qkv.bias.chunk(3)
    d = x.shape[-1] // layer.num_heads
    outputs, maps = [], []
    for index, window in enumerate(x):
        heads = []
        for head in range(layer.num_heads):
            own = slice(head * d, (head + 1) * d)
            q, k, v = (window @ w[own].T + b[own] for w, b in ((wq, bq), (wk, bk), (wv, bv)))
            scores = q @ k.T / d**0.5 + bias[:, :, head]
            if mask is not None:
                scores = scores + mask[index % len(mask)]
            maps.append(scores.softmax(-1))
            heads.append(maps[-1] @ v)
        outputs.append(torch.cat(heads, -1) @ layer.proj.weight.T + layer.proj.bias)
    return torch.stack(outputs), torch.stack(maps).unflatten(0, (len(x), layer.num_heads))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("window", [(3, 3), (2, 4)])
def test_matches_the_formula(window: tuple[int, int], masked: bool) -> None:
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, window).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    size, shift = (2 * window[0], 3 * window[1]), (1, 1)
    x = partition(torch.randn(2, *size, 8, dtype=torch.float64), window)  # (12, N, 8)
    mask = shift_mask(size, window, shift, dtype=torch.float64) if masked else None
    expected, expected_maps = written_out(layer, x, mask)
    maps: list[Tensor] = []
    torch.testing.assert_close(layer(x, mask), expected)
    layer.on_map = maps.append
    torch.testing.assert_close(layer(x, mask), expected)
    torch.testing.assert_close(maps[0], expected_maps)


def test_dropout_acts_only_in_training() -> None:
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, (3, 3), attention_dropout=0.5)
    x = torch.randn(4, 9, 8)
    assert not torch.allclose(layer(x), layer(x))
    layer.eval()
    torch.testing.assert_close(layer(x), layer(x))


def test_width_must_divide() -> None:
    with pytest.raises(
        ConfigError, match=r"dim=10 is not a multiple of num_heads=4; try num_heads=2"
    ):
        WindowAttention(10, 4, (7, 7))
