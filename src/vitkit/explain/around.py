"""Where one place of an image looks in every layer, and what looks at it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.errors import ConfigError, nearest
from vitkit.explain.sites import Grid, Site, find_sites
from vitkit.explain.tap import tap
from vitkit.models.backbone import Backbone

Place = tuple[float, float]  # down and across, as shares of the image, in [0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class LayerAround:
    """One layer: the heads' weights between a token and all T tokens."""

    name: str  # of the module, dotted
    grid: Grid  # cells down and across
    prefix: tuple[str, ...]  # names of the tokens before the cells
    token: int
    looks: NDArray[np.float32]  # (H, T): from the token, in sum 1
    seen: NDArray[np.float32]  # (H, T): to the token


def around(model: Backbone, x: Tensor, at: Place | str) -> list[LayerAround]:
    """Attention from and to one token in every layer, of one image (1, C, H, W).

    `at` is a place, whose cell is taken on the grid of each layer, or the name of a prefix token,
    such as `CLS`. The maps of one layer are held at a time.

    Raises:
        ConfigError: the model has no attention or no such token, or the place is not in the image.
    """
    if len(x) != 1:
        raise ConfigError(f"{len(x)} images are too many; give one")
    sites = find_sites(model, (x.shape[2], x.shape[3]))
    tokens = [find_token(site, at) for site in sites]
    found: list[LayerAround] = []

    def hear(layer: int, maps: Tensor) -> None:
        site, token = sites[layer], tokens[layer]
        looks, seen = (
            each[0].float().cpu().numpy()
            for each in (site.rows(maps, token), site.columns(maps, token))
        )
        found.append(LayerAround(site.name, site.grid, site.prefix, token, looks, seen))

    with torch.no_grad():
        tap(model, hear)(x)
    return found


def find_token(site: Site, at: Place | str) -> int:
    """The number of the token at a place, or of a name.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(at, str):
        if at not in site.prefix:
            known = ", ".join(site.prefix) or "none"
            raise ConfigError(
                f"no token is called {at!r}{nearest(at, site.prefix)}; before the cells there are: "
                f"{known}"
            )
        return site.prefix.index(at)
    if not all(0 <= share < 1 for share in at):
        raise ConfigError(f"at={at} is not in the image; give two shares of it from 0 to below 1")
    row, column = (int(share * side) for share, side in zip(at, site.grid, strict=True))
    return len(site.prefix) + row * site.grid[1] + column
