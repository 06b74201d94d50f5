"""Attention itself, of one layer or through all of them (arXiv:2005.00928)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.fuse import Fusion, descend, fuse, to_cells
from vitkit.explain.sites import Site, find_sites
from vitkit.explain.tap import Trace, fixed_reading, tap, trace
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone


def attention(
    model: Backbone,
    x: Tensor,
    target: Target,
    *,
    layer: int = -1,
    head: int | None = None,
    fusion: Fusion = "mean",
) -> Tensor:
    """Where the tokens that are read out look in one layer: (B, C, H, W) -> (B, h, w).

    Of one head, or of all by `fusion`. What class is asked about does not matter.

    Raises:
        ConfigError: no such layer or head, an unknown fusion, or a model without attention.
    """
    sites = find_sites(model, (x.shape[2], x.shape[3]))
    kept: list[tuple[Site, Tensor]] = []
    with torch.no_grad():
        tap(model, lambda index, maps: kept.append((sites[index], maps)), [layer])(x)
    site, maps = kept[0]
    if head is not None:
        if not 0 <= head < site.num_heads:
            raise ConfigError(
                f"head={head} is not among {site.num_heads}; try {site.num_heads - 1}"
            )
        maps = maps[:, head : head + 1]
    reading = fixed_reading(model, site).to(maps).expand(len(x), -1)
    return to_cells(site.pull(reading, fuse(maps, fusion)), site)


def rollout(model: Backbone, x: Tensor, target: Target, *, fusion: Fusion = "mean") -> Tensor:
    """Attention through all layers, half of each past it by the residual: -> (B, h, w).

    Attention rollout (arXiv:2005.00928, eq. 1): rows of (A + I) / 2, normalised, multiplied from
    the last layer to the first. In Swin a merged token's share goes in equal parts to the four it
    was made of. What class is asked about does not matter.

    Raises:
        ConfigError: an unknown fusion, or a model without attention.
    """
    with torch.no_grad():
        seen = trace(model, x)
    return _roll_out(seen, seen.maps, fusion)


def gradient_rollout(
    model: Backbone, x: Tensor, target: Target, *, fusion: Fusion = "mean"
) -> Tensor:
    """Attention rollout of maps times their gradient, where it is above 0: -> (B, h, w).

    The gradient is that of the target's score.

    Raises:
        ConfigError: an unknown fusion, or a model without attention.
    """
    with torch.enable_grad():
        seen = trace(model, x)
        slopes = torch.autograd.grad(target.score(seen.logits).sum(), seen.maps)
    weighted = [(m.detach() * g).clamp(min=0) for m, g in zip(seen.maps, slopes, strict=True)]
    return _roll_out(seen, weighted, fusion)


def _roll_out(seen: Trace, maps: Sequence[Tensor], fusion: Fusion) -> Tensor:
    """What the head reads, followed down to the cells of the first layer: -> (B, h, w)."""
    fused = [fuse(m, fusion) for m in maps]

    def step(shares: Tensor, i: int) -> Tensor:
        site = seen.sites[i]
        shares = shares / (site.sums(fused[i]) + 1)
        return site.pull(shares, fused[i]) + shares

    return to_cells(descend(seen.reading.detach(), seen.sites, step), seen.sites[0])
