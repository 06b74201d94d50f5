"""The attention layers of a model, and where in the image their tokens lie.

A token is a prefix token, such as the class token, or a cell of a grid over the image. Tokens are
numbered as they stand: prefix tokens first, then cells row by row. T is their number.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.window import pad_to_multiple, partition, reverse
from vitkit.models.backbone import Backbone
from vitkit.models.cct import CCT
from vitkit.models.deit import DeiT
from vitkit.models.swin import Block, Swin
from vitkit.models.vit import ViT

Grid = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Site(ABC):
    """One attention layer: the module, and the tokens between which it attends."""

    name: str  # of the module, dotted
    num_heads: int
    grid: Grid  # cells down and across
    prefix: tuple[str, ...] = ()  # names of the tokens before the cells
    stage: int = 0  # a later one has a grid half as fine

    @property
    def tokens(self) -> int:
        """How many there are."""
        return len(self.prefix) + self.grid[0] * self.grid[1]

    @property
    def block(self) -> str:
        """The name of the block that the layer is part of."""
        return self.name.removesuffix(".attn")

    @abstractmethod
    def rows(self, maps: Tensor, token: int) -> Tensor:
        """Where one token looks: maps as the layer gives them -> (B, H, T).

        They sum to 1, less what looks at padding.
        """

    @abstractmethod
    def columns(self, maps: Tensor, token: int) -> Tensor:
        """What looks at one token, and how much: maps as the layer gives them -> (B, H, T)."""

    @abstractmethod
    def pull(self, shares: Tensor, maps: Tensor) -> Tensor:
        """Hand shares of the tokens after a layer to those before it: (B, T) -> (B, T).

        `maps` are fused: as the layer gives them, with one head. What the row of a token gives to
        another is multiplied by the token's share, and added up.
        """

    @abstractmethod
    def sums(self, maps: Tensor) -> Tensor:
        """What each token's row sums up to, padding and all, of fused maps: -> (B, T)."""

    @abstractmethod
    def expand(self, maps: Tensor) -> Tensor:
        """Between any two tokens, 0 where a layer does not look: -> (B, H, T, T)."""

    def token_name(self, token: int) -> str:
        """What a token is called: its own name, or row and column from 0."""
        if token < len(self.prefix):
            return self.prefix[token]
        return "row {}, column {}".format(*divmod(token - len(self.prefix), self.grid[1]))


@dataclass(frozen=True, slots=True)
class GlobalSite(Site):
    """A layer in which every token looks at every other; its maps are (B, H, T, T)."""

    def rows(self, maps: Tensor, token: int) -> Tensor:
        return maps[:, :, token]

    def columns(self, maps: Tensor, token: int) -> Tensor:
        return maps[:, :, :, token]

    def pull(self, shares: Tensor, maps: Tensor) -> Tensor:
        return (shares[:, None] @ maps[:, 0])[:, 0]

    def sums(self, maps: Tensor) -> Tensor:
        return maps[:, 0].sum(dim=-1)

    def expand(self, maps: Tensor) -> Tensor:
        return maps


@dataclass(frozen=True, slots=True)
class WindowSite(Site):
    """A layer in which tokens look around in their window; its maps are (B * windows, H, N, N).

    `window` and `shift` are in tokens, down and across, as in `layers.window`.
    """

    window: Grid = (1, 1)
    shift: Grid = (0, 0)

    def rows(self, maps: Tensor, token: int) -> Tensor:
        return self._of_token(maps, token)

    def columns(self, maps: Tensor, token: int) -> Tensor:
        return self._of_token(maps.mT, token)

    def pull(self, shares: Tensor, maps: Tensor) -> Tensor:
        cut = self._cut(shares[..., None])  # (B * windows, N, 1)
        return self._join((cut.mT @ maps[:, 0]).mT)[..., 0]

    def sums(self, maps: Tensor) -> Tensor:
        return self._join(maps[:, 0].sum(dim=-1, keepdim=True))[..., 0]

    def expand(self, maps: Tensor) -> Tensor:
        batch, heads = self._batch(maps), maps.shape[1]
        whole = maps.new_zeros(batch, heads, self.tokens, self.tokens)
        for token in range(self.tokens):
            whole[:, :, token] = self.rows(maps, token)
        return whole

    def _of_token(self, maps: Tensor, token: int) -> Tensor:
        """The row of a token in its window, put back where the window lies: -> (B, H, T)."""
        batch = self._batch(maps)
        mark = maps.new_zeros(batch, self.tokens, 1)
        mark[:, token] = 1
        cut = self._cut(mark)  # (B * windows, N, 1), one 1 for each image
        rows = torch.einsum("wni,whnm->wmh", cut, maps)  # (B * windows, N, H)
        return self._join(rows).mT

    def _batch(self, maps: Tensor) -> int:
        down, across = (-(-s // w) for s, w in zip(self.grid, self.window, strict=True))
        return maps.shape[0] // (down * across)

    def _cut(self, tokens: Tensor) -> Tensor:
        """Roll and cut into windows, as the model does: (B, T, D) -> (B * windows, N, D)."""
        x = tokens.unflatten(1, self.grid).roll((-self.shift[0], -self.shift[1]), (1, 2))
        return partition(pad_to_multiple(x, self.window), self.window)

    def _join(self, windows: Tensor) -> Tensor:
        """The reverse of `_cut`: (B * windows, N, D) -> (B, T, D)."""
        height, width = self.grid
        padded = tuple(s + -s % w for s, w in zip(self.grid, self.window, strict=True))
        x = reverse(windows, self.window, (padded[0], padded[1]))[:, :height, :width]
        return x.roll(self.shift, (1, 2)).flatten(1, 2)


def find_sites(model: Backbone, size: Grid) -> list[Site]:
    """The attention layers of a model on images of `size` pixels, first to last.

    Raises:
        ConfigError: the model has none.
    """
    if isinstance(model, Swin):
        return list(_swin_sites(model, size))
    if isinstance(model, ViT | CCT):
        stride = model.config.stride if isinstance(model, CCT) else model.config.patch_size
        grid, prefix = (-(-size[0] // stride), -(-size[1] // stride)), prefix_names(model)
        return [
            GlobalSite(f"blocks.{i}.attn", _heads(block), grid, prefix)
            for i, block in enumerate(model.blocks)
        ]
    raise ConfigError(
        f"{type(model).__name__} has no attention to look at; choose gradcam, "
        "integrated_gradients or occlusion, which need none"
    )


def has_attention(model: Backbone) -> bool:
    """Whether there are attention layers."""
    return isinstance(model, ViT | CCT | Swin)


def cell_side(model: Backbone, stage: int = 0) -> int:
    """Pixels of the image that a cell of a model with attention is wide, at a stage.

    Raises:
        ConfigError: the model has no cells.
    """
    if isinstance(model, CCT):
        return model.config.stride
    if isinstance(model, ViT | Swin):
        return model.config.patch_size << stage
    raise ConfigError(f"{type(model).__name__} has no cells of its own; give their side in pixels")


def prefix_names(model: ViT | CCT) -> tuple[str, ...]:
    """What the tokens before the patches are called."""
    if isinstance(model, CCT):
        return ()
    names = ["CLS"] * model.config.class_token + ["DIST"] * isinstance(model, DeiT)
    return (*names, *(f"REG {i + 1}" for i in range(model.config.registers)))


def _swin_sites(model: Swin, size: Grid) -> list[Site]:
    found: list[Site] = []
    stride = model.config.patch_size
    grid = (-(-size[0] // stride), -(-size[1] // stride))
    for stage, layer in enumerate(model.layers):
        if stage:
            grid = (-(-grid[0] // 2), -(-grid[1] // 2))
        for i, block in enumerate(layer.get_submodule("blocks").children()):
            assert isinstance(block, Block)
            found.append(
                WindowSite(
                    f"layers.{stage}.blocks.{i}.attn",
                    _heads(block),
                    grid,
                    stage=stage,
                    window=block.window,
                    shift=block.shift,
                )
            )
    return found


def _heads(block: nn.Module) -> int:
    heads = block.get_submodule("attn").num_heads
    assert isinstance(heads, int)
    return heads
