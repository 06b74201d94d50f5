import math

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from vitkit.errors import ConfigError
from vitkit.layers.position import resize_positions, sincos_1d, sincos_2d


@pytest.mark.parametrize(("length", "dim"), [(1, 2), (7, 10), (197, 64)])
def test_sincos_1d_is_the_papers_formula(length: int, dim: int) -> None:
    table = sincos_1d(length, dim)
    assert table.shape == (length, dim) and table.dtype == torch.float32
    for position in range(length):
        for i in range(dim // 2):  # arXiv:1706.03762, section 3.5
            angle = position / 10_000 ** (2 * i / dim)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 5)])
@pytest.mark.parametrize("dim", [8, 32])
@pytest.mark.parametrize("temperature", [10_000.0, 100.0])
def test_sincos_2d_is_big_visions_formula(
    grid: tuple[int, int], dim: int, temperature: float
) -> None:
    table = sincos_2d(grid, dim, temperature=temperature)
    quarter, expected = dim // 4, []
    for row in range(grid[0]):
        for column in range(grid[1]):
            rates = [1 / temperature ** (i / (quarter - 1)) for i in range(quarter)]
            expected.append(
                [math.sin(column * rate) for rate in rates]
                + [math.cos(column * rate) for rate in rates]
                + [math.sin(row * rate) for rate in rates]
                + [math.cos(row * rate) for rate in rates]
            )
    torch.testing.assert_close(table, torch.tensor(expected), atol=1e-6, rtol=0)


def test_sinusoids_need_widths_that_divide() -> None:
    with pytest.raises(ConfigError, match="dim=7 is odd"):
        sincos_1d(4, 7)
    for dim in (4, 6, 30):
        with pytest.raises(ConfigError, match=f"dim={dim} is not a multiple of 4 from 8 on"):
            sincos_2d((2, 2), dim)


GRIDS = [((14, 14), (24, 24)), ((14, 14), (7, 7)), ((14, 14), (12, 16)), ((6, 10), (10, 6))]
SAME_COUNT = [((14, 14), (7, 28)), ((7, 28), (14, 14)), ((4, 9), (9, 4)), ((4, 9), (6, 6))]


@pytest.mark.parametrize(("old", "new"), GRIDS + SAME_COUNT)
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_resize_matches_timm(
    old: tuple[int, int], new: tuple[int, int], prefix: int, dtype: torch.dtype
) -> None:
    table = torch.randn(1, prefix + old[0] * old[1], 6, dtype=torch.float64).to(dtype)
    ours = resize_positions(table, old, new, prefix=prefix)
    reference = resample_abs_pos_embed(table, list(new), list(old), num_prefix_tokens=prefix)
    assert torch.equal(ours, reference) and ours.dtype == dtype
    assert torch.equal(ours[:, :prefix], table[:, :prefix])


@pytest.mark.parametrize(("old", "new"), SAME_COUNT)
def test_a_grid_of_another_shape_with_as_many_tokens_is_resized(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    """A ramp from top to bottom stays one: read row by row without resizing, it would not."""
    ramp = torch.linspace(0, 1, old[0])[:, None].expand(old)
    resized = resize_positions(ramp.reshape(1, -1, 1), old, new).reshape(new)
    torch.testing.assert_close(resized, resized[:, :1].expand(new))
    assert (resized[1:, 0] > resized[:-1, 0]).all()


def test_the_same_grid_is_the_table_itself() -> None:
    table = torch.randn(1, 1 + 6, 4)
    assert resize_positions(table, (2, 3), (2, 3), prefix=1) is table


def test_gradients_reach_the_table() -> None:
    table = torch.randn(1, 1 + 16, 2, requires_grad=True)
    weights = torch.randn(1, 1 + 15, 2)
    ours = resize_positions(table, (4, 4), (3, 5), prefix=1)
    reference = resample_abs_pos_embed(table, [3, 5], [4, 4], num_prefix_tokens=1)
    (expected,) = torch.autograd.grad((reference * weights).sum(), table)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), table)
    assert gradient.abs().min() > 0
    torch.testing.assert_close(gradient, expected)
