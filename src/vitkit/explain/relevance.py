"""Attention weighted by what it does for a class."""

import torch
from torch import Tensor

from vitkit.explain.fuse import descend, to_cells
from vitkit.explain.graft import Kept, graft
from vitkit.explain.sites import find_sites
from vitkit.explain.tap import tap, trace
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone


def relevance(model: Backbone, x: Tensor, target: Target) -> Tensor:
    """Relevance of every cell for the target, through all layers: (B, C, H, W) -> (B, h, w).

    The rule for self-attention of arXiv:2103.15679 (eq. 5 and 6): R += mean over heads of the
    positive part of gradient times attention, times R; and of R what the head reads, be it by a map
    of its own. The part that goes past all attention is left out: it knows no class. (A pool's map
    is not weighted by its gradient: of a mean, that tells the score's sign more than a cell's say.)
    In Swin a merged token's share goes in equal parts to the four it was made of.
    """
    with torch.enable_grad():
        seen = trace(model, x)
        slopes = torch.autograd.grad(target.score(seen.logits).sum(), seen.maps)
    weighted = [
        (maps.detach() * slope).clamp(min=0).mean(dim=1, keepdim=True)
        for maps, slope in zip(seen.maps, slopes, strict=True)
    ]
    reading = seen.reading.detach()

    def step(shares: Tensor, i: int) -> Tensor:
        return shares + seen.sites[i].pull(shares, weighted[i])

    through = descend(reading, seen.sites, step)
    past = descend(reading, seen.sites, lambda shares, _: shares)
    return to_cells(through - past, seen.sites[0])


def legrad(model: Backbone, x: Tensor, target: Target) -> Tensor:
    """How the attention of each layer moves what that layer would say: -> (B, h, w).

    LeGrad (arXiv:2404.03214, section 3): the tokens after every block go through the last norm and
    the head, and the positive part of the score's gradient with respect to the block's map is
    averaged over heads, queries and layers. Only blocks as wide as the head can be read so: in Swin
    those of the last stage. Where the head pools by attention the paper asks the pool's map; here
    it is the blocks' in every model.
    """
    sites = find_sites(model, (x.shape[2], x.shape[3]))
    last = [i for i, site in enumerate(sites) if site.stage == sites[-1].stage]
    maps: dict[int, Tensor] = {}
    tokens: dict[int, Tensor] = {}
    with torch.enable_grad():
        x = x.detach().requires_grad_()  # or maps of a frozen model would have no gradient
        watched = tap(model, maps.__setitem__, last)
        blocks = {i: sites[i].block for i in last}
        parts = {n: Kept(watched.get_submodule(n), tokens, i) for i, n in blocks.items()}
        graft(watched, parts)(x)
        moved = []
        for i in last:
            said = model.forward_head(model.get_submodule("norm")(tokens[i]))
            (slope,) = torch.autograd.grad(target.score(said).sum(), maps[i], retain_graph=True)
            fused = slope.detach().clamp(min=0).mean(dim=1, keepdim=True)
            uniform = fused.new_full((len(x), sites[i].tokens), 1 / sites[i].tokens)
            moved.append(sites[i].pull(uniform, fused))
    return to_cells(torch.stack(moved).mean(dim=0), sites[-1])
