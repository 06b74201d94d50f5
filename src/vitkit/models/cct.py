"""CCT: escaping the big data paradigm with compact transformers (arXiv:2104.05704)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.attention import Attention, width_of_head
from vitkit.layers.drop_path import DropPath, linear_rates
from vitkit.layers.init import truncated_normal
from vitkit.layers.mlp import Mlp
from vitkit.layers.pool import SequencePool
from vitkit.layers.position import resize_positions, sincos_1d
from vitkit.models import check
from vitkit.models.backbone import Backbone, Config, check_format, take


@dataclass(frozen=True, slots=True, kw_only=True)
class CCTConfig(Config):
    """CCT (arXiv:2104.05704); the defaults are CCT-7/3x1 for CIFAR.

    Raises:
        ConfigError: a number out of range, heads that do not divide, an unknown choice, or an even
            kernel.
    """

    image_size: tuple[int, int] = (32, 32)  # pixels, height and width
    kernel_size: int = 3  # cells, both sides, of each convolution of the tokenizer
    conv_layers: int = 1  # convolutions of the tokenizer, each followed by pooling
    dim: int = 256
    depth: int = 7
    num_heads: int = 4
    mlp_ratio: float = 2.0
    position: Literal["learned", "sincos_1d", "none"] = "learned"
    dropout: float = 0.0  # after positions and after every linear layer but qkv
    attention_dropout: float = 0.1
    drop_path: float = 0.1  # of the last block, rising linearly from 0 at the first
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check.numbers(self)
        check.choices(self)
        check.mlp_width(self.dim, self.mlp_ratio)
        width_of_head(self.dim, self.num_heads)  # refuses heads that do not divide
        if self.kernel_size < 3 or self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size={self.kernel_size} has no middle; try 3 or 7")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the image, and after each convolution of the tokenizer."""
        return (self.in_channels, *(64,) * (self.conv_layers - 1), self.dim)

    @property
    def conv_stride(self) -> int:
        """Cells that a convolution moves on by: 1 for 3x3, 2 for 7x7."""
        return max(self.kernel_size // 2 - 1, 1)

    @property
    def stride(self) -> int:
        """Pixels from one token to the next; pooling halves what a convolution leaves."""
        return int((2 * self.conv_stride) ** self.conv_layers)

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens down and across."""
        return -(-self.image_size[0] // self.stride), -(-self.image_size[1] // self.stride)

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        return self.dim


class CCT(Backbone):
    """Convolutions, positions, transformer, sequence pooling, head: (B, C, H, W) -> (B, K).

    Any height and width are taken: the position table is resized to the grid of tokens. Results are
    those of the authors' code; parameter names are timm's for a ViT.
    """

    config: CCTConfig

    def __init__(self, config: CCTConfig) -> None:
        super().__init__(config)
        c = config
        self.tokenizer = Tokenizer(c)
        table = _positions(c)
        if c.position == "learned" and table is not None:
            self.pos_embed: Tensor | None = nn.Parameter(table)
        else:
            self.register_buffer("pos_embed", table)
        self.pos_drop = nn.Dropout(c.dropout)
        self.blocks = nn.Sequential(*(Block(c, r) for r in linear_rates(c.drop_path, c.depth)))
        self.norm = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.pool = SequencePool(c.dim)
        self.head = self.new_head(c.num_classes)
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": c.dim, "reduction": c.stride}
            for i in range(c.depth)
        ]
        self.apply(truncated_normal)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens after the last block: (B, C, H, W) -> (B, N, D)."""
        x = self.embed(self.tokenizer(x))  # (B, N, D)
        for block in self.blocks:
            x = self.run_block(block, x)
        x = self.norm(x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """What blocks give, as maps: (B, C, H, W) -> tokens (B, N, D), [(B, D, h, w), ...].

        `indices` are blocks, negative ones from the end, or how many of the last. With `norm` the
        last norm is applied to each map. Maps come as (B, N, D) for NLC; `intermediates_only`
        leaves the tokens out, and `stop_early` what comes after the last index.

        Raises:
            ConfigError: an index that there is not, or an unknown `output_fmt`.
        """
        check_format(output_fmt, ("NCHW", "NLC"))
        chosen = take(indices, len(self.blocks))
        cells = self.tokenizer(x)  # (B, h, w, D)
        x = self.embed(cells)
        maps = []
        for i, block in enumerate(self.blocks[: max(chosen) + 1] if stop_early else self.blocks):
            x = self.run_block(block, x)
            if i in chosen:
                maps.append(self.norm(x) if norm else x)
        if output_fmt == "NCHW":
            maps = [m.mT.unflatten(2, cells.shape[1:3]).contiguous() for m in maps]
        return maps if intermediates_only else (self.norm(x), maps)

    def embed(self, cells: Tensor) -> Tensor:
        """Give tokens their positions: (B, h, w, D) -> (B, N, D)."""
        x = cells.flatten(1, 2)
        if self.pos_embed is not None:
            grid = (cells.shape[1], cells.shape[2])
            x = x + resize_positions(self.pos_embed, self.config.grid, grid)
        embedded: Tensor = self.pos_drop(x)
        return embedded

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool tokens and classify: (B, N, D) -> (B, K), or (B, D) with `pre_logits`."""
        x = self.pool(x) if self.pooled else x
        return x if pre_logits else self.head(x)

    @property
    def global_pool(self) -> str:
        """A word for how tokens are pooled, in which timm has none; empty where they are not."""
        return "seq" if self.pooled else ""

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, besides vectors, that weight decay should leave alone."""
        return {"pos_embed"}


class Tokenizer(nn.Module):
    """Convolutions with ReLU, each pooled to half its size: (B, C, H, W) -> (B, h, w, D)."""

    def __init__(self, config: CCTConfig) -> None:
        super().__init__()
        size, stride = config.kernel_size, config.conv_stride
        convs = [
            nn.Conv2d(before, width, size, stride, padding=size // 2, bias=False)
            for before, width in pairwise(config.widths)
        ]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight)
        self.convs = nn.ModuleList(convs)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.pool(self.act(conv(x)))
        return x.permute(0, 2, 3, 1)  # (B, 16, 16, 256) in CCT-7/3x1


class Block(nn.Module):
    """Attention, then an MLP: (B, N, D) -> (B, N, D).

    As in the authors' code, the second shortcut starts after the second norm, where that of a
    pre-norm block starts before it.
    """

    def __init__(self, config: CCTConfig, drop_path: float) -> None:
        super().__init__()
        c = config
        self.norm1 = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.attn = Attention(
            c.dim,
            c.num_heads,
            qkv_bias=False,
            dropout=c.dropout,
            attention_dropout=c.attention_dropout,
        )
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.mlp = Mlp(c.dim, int(c.dim * c.mlp_ratio), dropout=c.dropout)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm2(x + self.drop_path1(self.attn(self.norm1(x))))
        x = x + self.drop_path2(self.mlp(x))
        return x


def _positions(c: CCTConfig) -> Tensor | None:
    cells = c.grid[0] * c.grid[1]
    if c.position == "none":
        return None
    if c.position == "learned":
        return nn.init.trunc_normal_(torch.empty(1, cells, c.dim), std=0.2)
    return sincos_1d(cells, c.dim)[None]


CCT_7_3X1 = CCTConfig()
CCT_7_3X2 = replace(CCT_7_3X1, conv_layers=2)
CCT_2_3X2 = replace(CCT_7_3X2, dim=128, depth=2, num_heads=2, mlp_ratio=1.0)
CCT_14_7X2 = replace(CCT_7_3X2, kernel_size=7, dim=384, depth=14, num_heads=6, mlp_ratio=3.0)

CONFIGS = {
    "cct_2_3x2_32": CCT_2_3X2,
    "cct_4_3x2_32": replace(CCT_2_3X2, depth=4),
    "cct_6_3x1_32": replace(CCT_7_3X1, depth=6),
    "cct_6_3x2_32": replace(CCT_7_3X2, depth=6),
    "cct_7_3x1_32": CCT_7_3X1,
    "cct_7_3x2_32": CCT_7_3X2,
    "cct_7_7x2_224": replace(CCT_7_3X2, kernel_size=7, image_size=(224, 224)),
    "cct_14_7x2_224": replace(CCT_14_7X2, image_size=(224, 224)),
    "cct_14_7x2_384": replace(CCT_14_7X2, image_size=(384, 384)),
}
