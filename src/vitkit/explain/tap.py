"""Attention maps as a model makes them."""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.explain.graft import Kept, graft
from vitkit.explain.sites import Site, find_sites
from vitkit.models.backbone import Backbone
from vitkit.models.cct import CCT
from vitkit.models.vit import ViT

Listen = Callable[[int, Tensor], None]  # number of the layer, and its maps


def tap(model: Backbone, listen: Listen, layers: Collection[int] | None = None) -> Backbone:
    """A copy of a model, sharing its weights, that tells the maps of `layers`, or of all.

    `listen` gets the number of a layer and its maps as soon as they are made: (B, H, T, T), of Swin
    (B * windows, H, N, N); what it does not keep is freed. Other layers run their fastest kernel,
    and the model itself is untouched, so that others may use it meanwhile.

    Raises:
        ConfigError: the model has no attention, or not so many layers.
    """
    names = [site.name for site in find_sites(model, model.config.image_size)]
    chosen = range(len(names)) if layers is None else [_index(i, len(names)) for i in layers]
    return graft(
        model,
        {names[i]: _heard(model.get_submodule(names[i]), partial(listen, i)) for i in chosen},
    )


def _heard(layer: nn.Module, listen: Callable[[Tensor], None]) -> nn.Module:
    copied: Any = copy.copy(layer)
    copied.on_map = listen
    heard: nn.Module = copied
    return heard


def _index(layer: int, count: int) -> int:
    if not -count <= layer < count:
        raise ConfigError(
            f"layer={layer} is not among {count} attention layers; try {count - 1} or -1"
        )
    return layer % count


@dataclass(frozen=True, slots=True)
class Trace:
    """One forward pass: what was said, and the maps that led to it."""

    sites: list[Site]
    maps: list[Tensor]  # of every site
    reading: Tensor  # (B, T): how much the head takes of each token of the last layer
    logits: Tensor  # (B, K)


def trace(model: Backbone, x: Tensor) -> Trace:
    """Run a model and keep all maps: (B, C, H, W).

    Raises:
        ConfigError: the model has no attention.
    """
    if torch.is_grad_enabled():
        x = x.detach().requires_grad_()  # or maps of a frozen model would have no gradient
    sites = find_sites(model, (x.shape[2], x.shape[3]))
    maps: dict[int, Tensor] = {}
    read: list[Tensor] = []
    watched = tap(model, maps.__setitem__)
    if (pool := pool_with_map(model)) is not None:
        watched = graft(watched, {pool: _heard(model.get_submodule(pool), read.append)})
    logits = watched(x)
    last = sites[-1]
    reading = _spread(read[0], last) if read else fixed_reading(model, last)
    reading = reading.to(logits).expand(len(x), -1)
    return Trace(sites, [maps[i] for i in range(len(sites))], reading, logits)


def pool_with_map(model: Backbone) -> str | None:
    """The module that pools by attention, if the model does."""
    if isinstance(model, CCT):
        return "pool"
    return "attn_pool" if isinstance(model, ViT) and model.attn_pool is not None else None


def fixed_reading(model: Backbone, site: Site) -> Tensor:
    """What share of each token a head reads that takes no notice of what they say: (T,).

    The class token, the mean of both tokens of a distilled model, or the mean of the cells, for
    which a pool by attention is taken too.
    """
    prefix = len(site.prefix)
    cells = torch.zeros(site.tokens)
    cells[prefix:] = 1 / (site.tokens - prefix)
    pool = model.config.pool if isinstance(model, ViT) else "mean"
    if pool in ("mean", "attention"):
        return cells
    tokens = torch.zeros(site.tokens)
    read = [i for i, name in enumerate(site.prefix) if name in ("CLS", "DIST")]
    tokens[read] = 1 / len(read)
    return tokens if pool == "cls" else (tokens + cells) / 2


def _spread(read: Tensor, site: Site) -> Tensor:
    """The map of a pool, (B, H, 1, N) over the cells, as shares of all tokens: (B, T)."""
    shares = read.mean(dim=1)[:, 0]
    return torch.nn.functional.pad(shares, (site.tokens - shares.shape[1], 0))


def tokens_after(model: Backbone, x: Tensor) -> tuple[list[Site], list[Tensor]]:
    """What every block gives, without gradients: the blocks' sites, and tokens (B, T, D) of each.

    Raises:
        ConfigError: the model has no attention.
    """
    sites = find_sites(model, (x.shape[2], x.shape[3]))
    kept: dict[int, Tensor] = {}
    names = [site.block for site in sites]
    parts = {name: Kept(model.get_submodule(name), kept, i) for i, name in enumerate(names)}
    with torch.no_grad():
        graft(model, parts)(x)
    return sites, [kept[i].flatten(1, -2) for i in range(len(sites))]
