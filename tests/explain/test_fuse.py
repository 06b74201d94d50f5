"""Heads fused and layers followed, against matrices in NumPy."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.fuse import descend, fuse, split_in_four, to_cells
from vitkit.explain.sites import GlobalSite, WindowSite


@pytest.mark.parametrize(
    ("fusion", "reduce"), [("mean", np.mean), ("max", np.max), ("min", np.min)]
)
def test_fuse(fusion: str, reduce: np.ufunc) -> None:
    maps = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    fused = fuse(maps, fusion)
    assert fused.shape == (2, 1, 4, 4)
    np.testing.assert_allclose(fused[:, 0].numpy(), reduce(maps.numpy(), axis=1))


def test_an_unknown_fusion() -> None:
    with pytest.raises(ConfigError, match="fusion='median' is unknown; choose mean, max or min"):
        fuse(torch.rand(1, 2, 3, 3), "median")


def sites_of(*grids: tuple[int, int]) -> list[WindowSite]:
    return [
        WindowSite("attn", 1, grid, stage=stage, window=(2, 2)) for stage, grid in enumerate(grids)
    ]


@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (4, 5), (1, 2)])
def test_split_in_four(grid: tuple[int, int]) -> None:
    fine, coarse = sites_of(grid, (-(-grid[0] // 2), -(-grid[1] // 2)))
    shares = torch.rand(2, coarse.tokens, dtype=torch.float64)
    expected = torch.zeros(2, *grid, dtype=torch.float64)
    for row, column in product(range(grid[0]), range(grid[1])):
        expected[:, row, column] = shares[:, row // 2 * coarse.grid[1] + column // 2] / 4
    torch.testing.assert_close(split_in_four(shares, coarse, fine), expected.flatten(1))


def test_splitting_keeps_the_whole_where_nothing_was_padded() -> None:
    fine, coarse = sites_of((4, 6), (2, 3))
    shares = torch.rand(2, 6, dtype=torch.float64)
    torch.testing.assert_close(split_in_four(shares, coarse, fine).sum(1), shares.sum(1))


def test_descend_multiplies_from_the_last_layer_to_the_first() -> None:
    sites = [GlobalSite("attn", 1, (2, 2), ("CLS",))] * 3
    matrices = torch.rand(3, 2, 5, 5, dtype=torch.float64)
    shares = torch.rand(2, 5, dtype=torch.float64)
    order: list[int] = []

    def step(shares: Tensor, i: int) -> Tensor:
        order.append(i)
        return (shares[:, None] @ matrices[i])[:, 0]

    found = descend(shares, sites, step).numpy()
    assert order == [2, 1, 0]
    for b in range(2):
        first, second, third = matrices[:, b].numpy()
        np.testing.assert_allclose(found[b], shares[b].numpy() @ third @ second @ first)


def test_descend_splits_between_stages_alone() -> None:
    fine, coarse = sites_of((4, 4), (2, 2))
    shares = torch.tensor([[4.0, 8.0, 12.0, 16.0]])
    found = descend(shares, [fine, fine, coarse, coarse], lambda shares, _: shares * 2)
    rows = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert found.unflatten(1, (4, 4))[0].tolist() == [[16.0 * v for v in row] for row in rows]


def test_to_cells_leaves_prefix_tokens_out() -> None:
    site = GlobalSite("attn", 1, (2, 3), ("CLS", "DIST"))
    cells = to_cells(torch.arange(16.0).reshape(2, 8), site)
    assert cells.tolist() == [[[2, 3, 4], [5, 6, 7]], [[10, 11, 12], [13, 14, 15]]]
