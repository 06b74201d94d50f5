"""How far every head looks, and how evenly (arXiv:2010.11929, section 4.5 and appendix D.7)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.sites import Site, WindowSite, cell_side, find_sites
from vitkit.explain.tap import tap
from vitkit.layers.window import pad_to_multiple, partition, shift_mask
from vitkit.models.backbone import Backbone

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LayerHeads:
    """The heads of one layer: arrays (H,), means over all images and all cells that look.

    Prefix tokens do not count as lookers, for they have no place. What looks at them, `away`, goes
    no distance, as in the code of the paper's authors: a head may look near because it looks
    `away`, and `reach` tells.
    """

    name: str  # of the module, dotted
    stage: int
    distance: Array  # pixels of the image between a cell and those it looks at, by their weight
    away: Array  # share that goes to no cell, but to prefix tokens or, in Swin, to padding
    entropy: Array  # nats, of a cell's weights over all that it may look at
    limit: float  # nats: the entropy of a head that looks everywhere alike

    @property
    def evenness(self) -> Array:
        """Entropy as a share of its limit, in [0, 1]; 0 where there is but one place to look at.

        The limit is log T, of Swin log N of a window; less where a shifted window is masked.
        """
        return self.entropy / self.limit if self.limit else np.zeros_like(self.entropy)

    @property
    def reach(self) -> Array:
        """Distance, in pixels, of what goes to cells alone; 0 where nothing does."""
        there = 1 - self.away
        return np.divide(self.distance, there, out=np.zeros_like(there), where=there > 1e-9)


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """All layers, first to last; heads may differ in number."""

    layers: tuple[LayerHeads, ...]
    images: int


def measure_heads(model: Backbone, batches: Iterable[Tensor]) -> Heads:
    """Distance and entropy of every head over batches of images, each (B, C, H, W).

    The maps of one layer are held at a time. Sizes may differ from batch to batch: every cell that
    looks counts alike.

    Raises:
        ConfigError: the model has no attention, there is no batch, or one has another shape.
    """
    sums = [_Sums() for _ in find_sites(model, model.config.image_size)]
    images = 0
    for x in batches:
        if x.ndim != 4:
            raise ConfigError(f"{tuple(x.shape)} is no batch (B, C, H, W); give a list of batches")
        sites = find_sites(model, (x.shape[2], x.shape[3]))
        with torch.no_grad():
            tap(model, partial(_count_in, model, sites, sums))(x)
        images += len(x)
    if not images:
        raise ConfigError("there is no image to look at; give at least one batch")
    return Heads(tuple(s.means(site) for s, site in zip(sums, sites, strict=True)), images)


def _count_in(
    model: Backbone, sites: Sequence[Site], sums: Sequence["_Sums"], layer: int, maps: Tensor
) -> None:
    """Hear the maps of one layer."""
    sums[layer].add(maps, sites[layer], cell_side(model, sites[layer].stage))


@dataclass(slots=True, eq=False)
class _Sums:
    """What has been seen of a layer, summed over cells that look."""

    rows: float = 0.0  # cells that looked, over all images
    limit: float = 0.0
    heads: Array = field(default_factory=lambda: np.zeros((3, 1)))  # distance, away, entropy

    def add(self, maps: Tensor, site: Site, side: int) -> None:
        """Count in maps as the layer gives them, (B * windows, H, N, N)."""
        distance, cells, keys = (t.to(maps.device) for t in _geometry(site, side))
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        maps = maps.unflatten(0, (-1, len(cells)))  # (B, windows, H, N, N)
        looks = cells.to(maps)  # (windows, N)
        over_images = maps.sum(dim=0)  # (windows, H, N, N)
        far = (over_images * distance[:, None]).sum(dim=-1)  # (windows, H, N)
        away = (over_images * ~cells[:, None, None]).sum(dim=-1)
        entropy = torch.special.entr(maps).sum(dim=(0, -1))
        seen = torch.einsum("swhn,wn->sh", torch.stack([far, away, entropy]), looks)
        self.heads = self.heads + seen.cpu().double().numpy()
        self.rows += len(maps) * float(looks.sum())
        self.limit += len(maps) * float((keys.log() * looks).sum())

    def means(self, site: Site) -> LayerHeads:
        """By the cell that looked."""
        distance, away, entropy = self.heads / self.rows
        limit = self.limit / self.rows
        return LayerHeads(site.name, site.stage, distance, away, entropy, limit)


def _geometry(site: Site, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where tokens lie that a layer's maps are of; without windows all are in one.

    Pixels between any two cells, (windows, N, N), 0 for what is no cell; which are cells,
    (windows, N); and how many tokens each may look at, (windows, N).
    """
    height, width = site.grid
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    marked = torch.stack([rows, columns, torch.ones_like(rows)], dim=-1)[None]  # (1, h, w, 3)
    if isinstance(site, WindowSite):
        marked = marked.roll((-site.shift[0], -site.shift[1]), (1, 2))
        marked = pad_to_multiple(marked, site.window)
        size = (marked.shape[1], marked.shape[2])
        may_look = shift_mask(size, site.window, site.shift) == 0  # (windows, N, N)
        marked, keys = partition(marked, site.window), may_look.sum(dim=-1)
    else:
        marked = torch.nn.functional.pad(marked.flatten(1, 2), (0, 0, len(site.prefix), 0))
        keys = torch.tensor(site.tokens)
    places, cells = side * marked[..., :2].float(), marked[..., 2] > 0
    distance = (places[:, :, None] - places[:, None]).norm(dim=-1)
    return distance * (cells[:, :, None] & cells[:, None]), cells, keys.expand(cells.shape).float()
