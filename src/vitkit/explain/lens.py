"""What the head says after every block, of all that it reads and of every token alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.sites import Site, has_attention
from vitkit.explain.tap import tokens_after
from vitkit.models.backbone import Backbone
from vitkit.models.deit import DeiT
from vitkit.models.swin import Swin


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """How an answer comes about, block by block; B images, L blocks."""

    blocks: tuple[str, ...]  # their names, dotted
    share: Tensor  # (B, L): of the class that was asked about, in [0, 1]
    best: Tensor  # (B, L): the class with the greatest share
    best_share: Tensor  # (B, L)


@dataclass(frozen=True, slots=True, eq=False)
class Lens:
    """What the head says after each of L blocks; B images, T tokens, C chosen of K classes."""

    sites: tuple[Site, ...]  # of the blocks: they name the tokens, and know where these lie
    classes: tuple[int, ...]  # the chosen ones
    logits: Tensor  # (B, L, T, C): of every token alone
    totals: Tensor  # (B, L, T): log of the sum of exp(logit) over all K classes
    best: Tensor  # (B, L, T): the class with the greatest logit, of all K
    read: Tensor  # (B, L, K): logits of what the head reads; the last are the model's own

    @property
    def shares(self) -> Tensor:
        """Of the chosen classes, among all K, for every token alone: (B, L, T, C), in [0, 1]."""
        return (self.logits - self.totals[..., None]).exp()

    def maps(self, label: int) -> Tensor:
        """The share of a chosen class in every cell alone: (B, L, h, w).

        Raises:
            ConfigError: the class was not chosen.
        """
        if label not in self.classes:
            raise ConfigError(f"class {label} is not among those chosen; add it to classes")
        site = self.sites[-1]
        shares = self.shares[..., self.classes.index(label)]  # (B, L, T)
        cells: Tensor = shares[..., len(site.prefix) :].unflatten(-1, site.grid)
        return cells

    def trajectory(self, label: Tensor) -> Trajectory:
        """The share of a class for each image, (B,), and the best class, after every block."""
        shares = self.read.softmax(dim=-1)  # (B, L, K)
        best_share, best = shares.max(dim=-1)
        asked = label.to(shares.device)[:, None, None].expand(-1, shares.shape[1], 1)
        blocks = tuple(site.block for site in self.sites)
        return Trajectory(blocks, shares.gather(2, asked)[..., 0], best, best_share)


def lens(
    model: Backbone,
    x: Tensor,
    classes: Sequence[int] | None = None,
    *,
    temperature: float = 1.0,
) -> Lens:
    """The logit lens: last norm and head after every block, (B, C, H, W) -> (B, L, T, classes).

    As arXiv:2310.18969 reads the class token and the cells of a ViT. A token alone stands wherever
    the head reads: in the place of the class token, of both in a model that reads both side by
    side, and as the only cell where cells are averaged or pooled by attention. Class and
    distillation token of a DeiT are read by their own heads, all other tokens by the mean of both.
    In Swin only the blocks of the last stage are as wide as the head: L counts those.

    Blocks are not trained to be read so: what early ones say may mean little. `classes` are those
    whose logits of every token are kept, by default all. Logits are divided by `temperature`, as
    those of a classifier are that has one.

    Raises:
        ConfigError: the model has no tokens or no head, or a class that there is not.
    """
    _check(model, classes)
    sites, tokens = tokens_after(model, x)
    last = [i for i, site in enumerate(sites) if site.stage == sites[-1].stage]
    chosen = tuple(range(model.num_classes)) if classes is None else tuple(classes)
    logits, totals, best, read = [], [], [], []
    with torch.no_grad():
        for i in last:
            normed = model.get_submodule("norm")(tokens[i])  # (B, T, D)
            read.append(
                model.forward_head(_as_given(model, normed, sites[i])).float() / temperature
            )
            alone = _alone(model, normed, sites[i]).float() / temperature  # (B, T, K)
            logits.append(alone[..., list(chosen)])
            totals.append(alone.logsumexp(dim=-1))
            best.append(alone.argmax(dim=-1))
    stacked = (torch.stack(each, dim=1) for each in (logits, totals, best, read))
    return Lens(tuple(sites[i] for i in last), chosen, *stacked)


def _check(model: Backbone, classes: Sequence[int] | None) -> None:
    if not has_attention(model):
        raise ConfigError(
            f"{type(model).__name__} has no tokens that its head could be asked about; "
            "take a transformer, or look where a class is seen with gradcam"
        )
    if not (model.pooled and model.num_classes):
        raise ConfigError("the model has no head that says a class; give it one before")
    for label in classes or ():
        if not 0 <= label < model.num_classes:
            raise ConfigError(
                f"class {label} is not among {model.num_classes}; try {model.num_classes - 1}"
            )


def _as_given(model: Backbone, tokens: Tensor, site: Site) -> Tensor:
    """Tokens in the form that the head takes: (B, T, D), of Swin (B, h, w, D)."""
    return tokens.unflatten(1, site.grid) if isinstance(model, Swin) else tokens


def _alone(model: Backbone, tokens: Tensor, site: Site) -> Tensor:
    """What the head says of each token where there is no other: (B, T, D) -> (B, T, K)."""
    each = tokens.flatten(0, 1)[:, None]  # (B * T, 1, D)
    if isinstance(model, Swin):
        said = model.forward_head(each[:, None])  # (B * T, K)
    else:  # in the place of every prefix token, and as the one cell
        each = each.expand(-1, len(site.prefix) + 1, -1)
        said = model.forward_head(each)
    said = said.unflatten(0, tokens.shape[:2])
    if isinstance(model, DeiT):
        ours, taught = (t.unflatten(0, tokens.shape[:2]) for t in model.forward_heads(each))
        said = torch.cat([ours[:, :1], taught[:, 1:2], said[:, 2:]], dim=1)
    return said
