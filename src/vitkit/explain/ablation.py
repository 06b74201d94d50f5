"""What a model says without some of its heads, or without some cells of the image."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.explain.control import CELL
from vitkit.explain.gradients import AT_ONCE
from vitkit.explain.graft import Kept, graft
from vitkit.explain.sites import Grid, Site, cell_side, find_sites, has_attention
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone
from vitkit.models.cct import CCT
from vitkit.models.vit import ViT

Cell = tuple[int, int]  # row and column, from 0
How = Literal["cover", "drop"]


@dataclass(frozen=True, slots=True, eq=False)
class Effect:
    """What a model says as it is, and without some parts."""

    whole: Tensor  # (B, K), logits
    ablated: Tensor  # (B, K), logits

    @property
    def change(self) -> Tensor:
        """How far the share of every class rises without the parts: (B, K), in [-1, 1]."""
        return self.ablated.softmax(dim=-1) - self.whole.softmax(dim=-1)


def ablate(
    model: Backbone,
    x: Tensor,
    *,
    heads: Mapping[int, Collection[int]] | None = None,
    cells: Collection[Cell] = (),
    how: How = "cover",
    side: int | None = None,
) -> Effect:
    """Run images, (B, C, H, W), with and without some heads and cells.

    `heads` are numbers of heads by that of their layer. `cells` are of a grid of `side` pixels, by
    default the model's own patches, or 16 pixels of a CNN; see `cover` and `without_cells` for
    `how`. The model itself is untouched, so that others may use it meanwhile.

    Raises:
        ConfigError: a layer, head or cell that there is not, an unknown `how`, or cells that
            cannot be dropped.
    """
    changed, seen = without_heads(model, heads) if heads else model, x
    if how == "drop":
        if side is not None:
            raise ConfigError(f"side={side} is for cells that are covered; set how='cover'")
        changed = without_cells(changed, cells, (x.shape[2], x.shape[3])) if cells else changed
    elif how == "cover":
        own = cell_side(model) if has_attention(model) else CELL
        seen = cover(x, cells, own if side is None else side)
    else:
        raise ConfigError(f"how={how!r} is unknown; choose cover or drop")
    with torch.no_grad():
        return Effect(model(x), changed(seen))


def without_heads(model: Backbone, heads: Mapping[int, Collection[int]]) -> Backbone:
    """A copy of a model, sharing its weights, in which some heads of some layers give zeros.

    What a head gives is set to 0 before the layer's last projection, as in arXiv:1905.10650,
    section 2.3; that projection's bias stays. `heads` are numbers from 0 by that of their layer.

    Raises:
        ConfigError: the model has no attention, or not that layer or head.
    """
    sites = find_sites(model, model.config.image_size)
    for layer, some in heads.items():
        if not -len(sites) <= layer < len(sites):
            raise ConfigError(
                f"layer={layer} is not among {len(sites)} attention layers; "
                f"try {len(sites) - 1} or -1"
            )
        kept = torch.ones(1, sites[layer].num_heads)
        for head in some:
            if not 0 <= head < kept.shape[1]:
                raise ConfigError(
                    f"head={head} is not among {kept.shape[1]}; try {kept.shape[1] - 1}"
                )
            kept[0, head] = 0
        model = _mute(model, sites[layer], kept)
    return model


def without_cells(model: Backbone, cells: Collection[Cell], size: Grid) -> Backbone:
    """A copy of a model, sharing its weights, that drops tokens of some cells before its blocks.

    The tokens go after they have got their positions; the rest are fewer, and nothing stands where
    they stood (arXiv:2204.08945, section 2). `size` is that of the images, in pixels. Where
    convolutions come before the patches, as in hybrids and CCT, neighbours have seen a part of a
    dropped cell.

    Raises:
        ConfigError: the model has no tokens that can be missing, no such cell, or no other cell.
    """
    if not isinstance(model, ViT | CCT):
        raise ConfigError(
            f"{type(model).__name__} needs its map whole, so no cell can be dropped; "
            "set how='cover'"
        )
    site = find_sites(model, size)[0]
    _check_cells(cells, site.grid)
    gone = {len(site.prefix) + row * site.grid[1] + column for row, column in cells}
    left = [token for token in range(site.tokens) if token not in gone]
    if len(left) == len(site.prefix):
        raise ConfigError("no cell would be left; keep at least one")
    return graft(model, {"pos_drop": _Some(model.pos_drop, left)})


def cover(x: Tensor, cells: Collection[Cell], side: int, *, baseline: float = 0.0) -> Tensor:
    """Fill cells of `side` pixels in every image: (B, C, H, W) -> (B, C, H, W).

    `baseline` is of normalised pixels: 0 is the mean that the model was trained with. The last
    cells are smaller where `side` does not divide the image.

    Raises:
        ConfigError: a side below 1, or a cell that there is not.
    """
    if side < 1:
        raise ConfigError(f"side={side} is less than 1; try 16")
    _check_cells(cells, (-(-x.shape[2] // side), -(-x.shape[3] // side)))
    covered = x.clone()
    for row, column in cells:
        down, across = (slice(side * at, side * (at + 1)) for at in (row, column))
        covered[:, :, down, across] = baseline
    return covered


def head_effects(model: Backbone, x: Tensor, target: Target) -> list[Tensor]:
    """How far the score falls without each head alone: (B, H) of every layer, first to last.

    Every run starts from the tokens before the head's own block: of L layers with H heads each,
    that is the work of about L * H / 2 forward passes. Below 0 the head speaks against the class.

    Raises:
        ConfigError: the model has no attention.
    """
    sites = find_sites(model, (x.shape[2], x.shape[3]))
    kept: dict[int, Tensor] = {}
    effects = []
    with torch.no_grad():
        logits = graft(model, {"pos_drop": Kept(model.get_submodule("pos_drop"), kept, 0)})(x)
        whole, tokens = target.score(logits), kept.pop(0)  # (B,), and before the first block
        for layer, site in enumerate(sites):
            drops = [
                whole[:, None] - _scores_without(model, sites, layer, tokens, target, some)
                for some in torch.arange(site.num_heads).split(max(AT_ONCE // len(x), 1))
            ]
            effects.append(torch.cat(drops, dim=1))
            tokens = _step(model, sites, layer, tokens)
    return effects


def _scores_without(
    model: Backbone,
    sites: Sequence[Site],
    layer: int,
    tokens: Tensor,
    target: Target,
    heads: Tensor,
) -> Tensor:
    """The score without each of some heads of a layer, from the tokens before it: (B, heads)."""
    batch, times = len(tokens), len(heads)
    kept = torch.ones(times, sites[layer].num_heads)
    kept[torch.arange(times), heads] = 0
    changed = _mute(model, sites[layer], kept.repeat(batch, 1))  # (B * heads, H)
    x = tokens.repeat_interleave(times, dim=0)
    for i in range(layer, len(sites)):
        x = _step(changed, sites, i, x)
    logits = model.forward_head(model.get_submodule("norm")(x))
    scores: Tensor = target.repeat(times).score(logits).unflatten(0, (batch, times))
    return scores


def _step(model: Backbone, sites: Sequence[Site], layer: int, x: Tensor) -> Tensor:
    """From the tokens before a block to those before the next: in Swin, past what merges them."""
    x = model.get_submodule(sites[layer].block)(x)
    if layer + 1 < len(sites) and (stage := sites[layer + 1].stage) != sites[layer].stage:
        x = model.get_submodule(f"layers.{stage}.downsample")(x)
    return x


def _check_cells(cells: Collection[Cell], grid: Grid) -> None:
    for row, column in cells:
        if not (0 <= row < grid[0] and 0 <= column < grid[1]):
            raise ConfigError(
                f"cell ({row}, {column}) is not among {grid[0]} x {grid[1]}; "
                f"try ({grid[0] - 1}, {grid[1] - 1})"
            )


def _mute(model: Backbone, site: Site, kept: Tensor) -> Backbone:
    name = f"{site.name}.proj"
    return graft(model, {name: _Muted(model.get_submodule(name), kept)})


class _Muted(nn.Module):
    """The last projection of an attention, with nothing from some heads: (B, N, D) -> (B, N, D).

    `kept`, (B, H) or (1, H) for all images alike, is 1 for a head that counts and 0 for another;
    (B * windows, N, D) is taken too.
    """

    def __init__(self, proj: nn.Module, kept: Tensor) -> None:
        super().__init__()
        self.proj, self.kept = proj, kept

    def forward(self, x: Tensor) -> Tensor:
        kept = self.kept.to(x).repeat_interleave(len(x) // len(self.kept), dim=0)
        heads = x.unflatten(-1, (kept.shape[1], -1)) * kept[:, None, :, None]  # (B, N, H, D/H)
        out: Tensor = self.proj(heads.flatten(2))
        return out


class _Some(nn.Module):
    """A module, and of the tokens that it gives only some: (B, T, D) -> (B, t, D)."""

    def __init__(self, module: nn.Module, tokens: Sequence[int]) -> None:
        super().__init__()
        self.module, self.tokens = module, torch.tensor(tokens)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x).index_select(1, self.tokens.to(x.device))
        return out
