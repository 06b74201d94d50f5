"""Many heads become one, and many layers one: what several methods do with maps."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.sites import Site

Fusion = Literal["mean", "max", "min"]


def fuse(maps: Tensor, fusion: Fusion = "mean") -> Tensor:
    """One map of all heads': (B, H, N, N) -> (B, 1, N, N).

    Raises:
        ConfigError: an unknown fusion.
    """
    if fusion == "mean":
        return maps.mean(dim=1, keepdim=True)
    if fusion == "max":
        return maps.amax(dim=1, keepdim=True)
    if fusion == "min":
        return maps.amin(dim=1, keepdim=True)
    raise ConfigError(f"fusion={fusion!r} is unknown; choose mean, max or min")


def descend(
    shares: Tensor,
    sites: Sequence[Site],
    step: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Follow shares of tokens from the last layer down to the first: (B, T) -> (B, T').

    `step` takes them through one layer, by its number. Between stages every token's share goes in
    equal parts to the four that it was merged from.
    """
    for i in reversed(range(len(sites))):
        shares = step(shares, i)
        if i and sites[i].stage != sites[i - 1].stage:
            shares = split_in_four(shares, sites[i], sites[i - 1])
    return shares


def split_in_four(shares: Tensor, coarse: Site, fine: Site) -> Tensor:
    """Shares of cells that were merged, in equal parts: (B, T) -> (B, 4 T) at most."""
    cells = shares.unflatten(1, coarse.grid) / 4
    for axis in (1, 2):
        cells = cells.repeat_interleave(2, dim=axis)
    height, width = fine.grid
    fine_cells: Tensor = cells[:, :height, :width].flatten(1)  # without what was padded
    return fine_cells


def to_cells(shares: Tensor, site: Site) -> Tensor:
    """Without the prefix tokens, as a grid: (B, T) -> (B, h, w)."""
    cells: Tensor = shares[:, len(site.prefix) :].unflatten(1, site.grid)
    return cells
