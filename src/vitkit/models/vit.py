"""Vision Transformer: an image is worth 16x16 words (arXiv:2010.11929)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.attention import Attention, width_of_head
from vitkit.layers.drop_path import DropPath, linear_rates
from vitkit.layers.init import truncated_normal
from vitkit.layers.layer_scale import LayerScale
from vitkit.layers.mlp import Activation, Mlp
from vitkit.layers.patch import HybridEmbed, PatchEmbed, cells_of_patch
from vitkit.layers.pool import AttentionPool
from vitkit.layers.position import resize_positions, sincos_1d, sincos_2d
from vitkit.layers.stem import ConvStem, stem_stride
from vitkit.models import check
from vitkit.models.backbone import Backbone, Config, check_format, take

GLOBAL_POOLS = {"cls": "token", "mean": "avg", "attention": "map", "cls_mean": "cls_mean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTConfig(Config):
    """Plain ViT (arXiv:2010.11929, table 1); the defaults are ViT-B/16.

    Raises:
        ConfigError: a number out of range, sizes or heads that do not divide, an unknown choice, or
            a pool without the token it needs.
    """

    patch_size: int = 16  # pixels
    stem: tuple[int, ...] = ()  # widths of 3x3 convolutions before the patches (arXiv:2106.14881)
    stem_pool: bool = False  # 2x2 max pooling after each width of theirs, instead of strides
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"
    pool: Literal["cls", "mean", "cls_mean", "attention"] = "cls"  # cls_mean: both, side by side
    fc_norm: bool | None = None  # the last norm comes after the pool; None: with pool=mean
    position: Literal["learned", "sincos_1d", "sincos_2d", "none"] = "learned"
    prefix_positions: bool = True  # class and register tokens have rows in the position table
    class_token: bool = True
    registers: int = 0  # extra tokens that nothing reads (arXiv:2309.16588)
    layer_scale: float | None = None  # initial gain of each residual branch (arXiv:2103.17239)
    qk_norm: bool = False  # normalise queries and keys per head (arXiv:2302.05442)
    dropout: float = 0.0  # after positions and after every linear layer but qkv (appendix B.1)
    attention_dropout: float = 0.0
    drop_path: float = 0.0  # of the last block, rising linearly from 0 at the first
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check.numbers(self)
        check.choices(self)
        check.whole_patches(self.image_size, self.patch_size)
        cells_of_patch(self.patch_size, self.stem_cell)  # refuses what does not divide
        if self.stem_pool and not self.stem:
            raise ConfigError("stem_pool=true has no stem to pool; set stem, such as (24, 48, 48)")
        check.mlp_width(self.dim, self.mlp_ratio)
        width_of_head(self.dim, self.num_heads)  # refuses heads that do not divide
        if self.pool in ("cls", "cls_mean") and not self.class_token:
            raise ConfigError(
                f"pool={self.pool} reads the class token; set class_token=true or pool=mean"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def stem_cell(self) -> int:
        """Pixels that a cell of the stem's map is wide; 1 without a stem."""
        return stem_stride(self.stem, pool=self.stem_pool)

    @property
    def pools_before_norm(self) -> bool:
        """Whether tokens are pooled first and normalised then, as usual for their mean."""
        return self.pool == "mean" if self.fc_norm is None else self.fc_norm

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches."""
        return int(self.class_token) + self.registers

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        return 2 * self.dim if self.pool == "cls_mean" else self.dim


class Block(nn.Module):
    """Pre-norm transformer block (arXiv:2010.11929, eq. 2 and 3): (B, N, D) -> (B, N, D)."""

    def __init__(self, config: ViTConfig, drop_path: float) -> None:
        super().__init__()
        c = config
        self.norm1 = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.attn = Attention(
            c.dim,
            c.num_heads,
            qk_norm=c.qk_norm,
            norm_eps=c.norm_eps,
            dropout=c.dropout,
            attention_dropout=c.attention_dropout,
        )
        self.ls1 = _layer_scale(c)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.mlp = Mlp(c.dim, int(c.dim * c.mlp_ratio), activation=c.activation, dropout=c.dropout)
        self.ls2 = _layer_scale(c)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x


class ViT(Backbone):
    """Patches, positions, transformer, pool, head: (B, C, H, W) -> (B, K).

    Any height and width are taken: the position table is resized to the patch grid, and sides that
    are no multiple of the patch are padded with zeros. Parameter names and results are timm's.
    """

    config: ViTConfig

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        c = config
        self.patch_embed = self.new_patch_embed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.dim)) if c.class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, c.registers, c.dim)) if c.registers else None
        table = _positions(c)
        if c.position == "learned" and table is not None:
            self.pos_embed: Tensor | None = nn.Parameter(table)
        else:
            self.register_buffer("pos_embed", table)
        self.pos_drop = nn.Dropout(c.dropout)
        rates = linear_rates(c.drop_path, c.depth)
        self.blocks = nn.Sequential(*(Block(c, rate) for rate in rates))
        norm = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.norm = nn.Identity() if c.pools_before_norm else norm
        self.attn_pool = _attention_pool(c) if c.pool == "attention" else None
        self.fc_norm = norm if c.pools_before_norm else nn.Identity()
        self.head = self.new_head(c.num_classes)
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": c.dim, "reduction": c.patch_size}
            for i in range(c.depth)
        ]
        self.apply(truncated_normal)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.normal_(token, std=1e-6)

    def new_patch_embed(self) -> nn.Module:
        """What makes patches of an image: (B, C, H, W) -> (B, h, w, D)."""
        c = self.config
        if not c.stem:
            return PatchEmbed(c.in_channels, c.dim, c.patch_size)
        stem = ConvStem(c.in_channels, c.stem, pool=c.stem_pool)
        return HybridEmbed(stem, c.stem[-1], c.dim, c.patch_size // c.stem_cell)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens after the last block: (B, C, H, W) -> (B, P + N, D), P prefix tokens first."""
        x = self.embed(self.patch_embed(x))  # (B, P + N, D)
        for block in self.blocks:
            x = self.run_block(block, x)
        x = self.norm(x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """What blocks give, as maps: (B, C, H, W) -> tokens (B, P + N, D), [(B, D, h, w), ...].

        `indices` are blocks, negative ones from the end, or how many of the last. With `norm` the
        last norm is applied to each map. Maps come as (B, N, D) for NLC, and in pairs with their
        (B, P, D) for `return_prefix_tokens`; `intermediates_only` leaves the tokens out, and
        `stop_early` what comes after the last index.

        Raises:
            ConfigError: an index that there is not, or an unknown `output_fmt`.
        """
        check_format(output_fmt, ("NCHW", "NLC"))
        chosen = take(indices, len(self.blocks))
        patches = self.patch_embed(x)  # (B, h, w, D)
        x = self.embed(patches)
        taken = []
        for i, block in enumerate(self.blocks[: max(chosen) + 1] if stop_early else self.blocks):
            x = self.run_block(block, x)
            if i in chosen:
                taken.append(self.norm(x) if norm else x)
        prefix = self.config.num_prefix_tokens
        maps = [tokens[:, prefix:] for tokens in taken]  # (B, N, D)
        if output_fmt == "NCHW":
            maps = [m.mT.unflatten(2, patches.shape[1:3]).contiguous() for m in maps]
        prefixed = return_prefix_tokens and prefix > 0
        found = list(zip(maps, [t[:, :prefix] for t in taken], strict=True)) if prefixed else maps
        return found if intermediates_only else (self.norm(x), found)

    def embed(self, patches: Tensor) -> Tensor:
        """Give patches their positions and prefix tokens: (B, h, w, D) -> (B, P + N, D)."""
        prefix = [token.expand(patches.shape[0], -1, -1) for token in self.prefix_tokens()]
        positions = self.positions((patches.shape[1], patches.shape[2]))
        x = patches.flatten(1, 2)  # (B, N, D)
        if self.config.prefix_positions:
            x = torch.cat([*prefix, x], dim=1) + positions
        else:
            x = torch.cat([*prefix, x + positions], dim=1)
        embedded: Tensor = self.pos_drop(x)
        return embedded

    def prefix_tokens(self) -> list[Tensor]:
        """The tokens before the patches, each (1, n, D)."""
        return [token for token in (self.cls_token, self.reg_token) if token is not None]

    def positions(self, grid: tuple[int, int]) -> Tensor | float:
        """The position table for a grid of patches, (1, P + h * w, D); 0 where there is none.

        Without `prefix_positions` it has no rows for prefix tokens: (1, h * w, D).
        """
        if self.pos_embed is None:
            return 0.0
        prefix = self.config.num_prefix_tokens if self.config.prefix_positions else 0
        return resize_positions(self.pos_embed, self.config.grid, grid, prefix=prefix)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool tokens and classify: (B, P + N, D) -> (B, K), or (B, D) with `pre_logits`."""
        x = self.fc_norm(self.pool(x) if self.pooled else x)
        return x if pre_logits else self.head(x)

    def pool(self, x: Tensor) -> Tensor:
        """One vector for each image: (B, P + N, D) -> (B, D), or (B, 2 D) for both."""
        if self.config.pool == "cls":
            return x[:, 0]
        patches = x[:, self.config.num_prefix_tokens :]  # (B, N, D)
        if self.attn_pool is not None:
            pooled: Tensor = self.attn_pool(patches)
            return pooled
        mean = patches.mean(dim=1)
        return mean if self.config.pool == "mean" else torch.cat([x[:, 0], mean], dim=1)

    @property
    def global_pool(self) -> str:
        """timm's word for how tokens are pooled; empty where they are not."""
        return GLOBAL_POOLS[self.config.pool] if self.pooled else ""

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, besides vectors, that weight decay should leave alone."""
        return {"pos_embed", "cls_token", "reg_token"}


def _positions(c: ViTConfig) -> Tensor | None:
    prefix = c.num_prefix_tokens if c.prefix_positions else 0
    cells = c.grid[0] * c.grid[1]
    if c.position == "none":
        return None
    if c.position == "learned":
        return nn.init.trunc_normal_(torch.empty(1, prefix + cells, c.dim), std=0.02)
    fixed = sincos_1d(cells, c.dim) if c.position == "sincos_1d" else sincos_2d(c.grid, c.dim)
    return torch.cat([torch.zeros(prefix, c.dim), fixed])[None]  # tokens without a place get zero


def _attention_pool(c: ViTConfig) -> AttentionPool:
    return AttentionPool(
        c.dim,
        c.num_heads,
        mlp_ratio=c.mlp_ratio,
        activation=c.activation,
        norm_eps=c.norm_eps,
    )


def _layer_scale(c: ViTConfig) -> nn.Module:
    return nn.Identity() if c.layer_scale is None else LayerScale(c.dim, c.layer_scale)


B16 = ViTConfig()
TI16 = replace(B16, dim=192, num_heads=3)
S16 = replace(B16, dim=384, num_heads=6)
L16 = replace(B16, dim=1024, depth=24, num_heads=16)
H14 = replace(B16, dim=1280, depth=32, num_heads=16, patch_size=14)
AT_384 = (384, 384)
DINOV2_S14 = replace(S16, patch_size=14, image_size=(518, 518), layer_scale=1e-5)
DINOV2_B14 = replace(DINOV2_S14, dim=768, num_heads=12)
DINOV2_L14 = replace(DINOV2_S14, dim=1024, depth=24, num_heads=16)


def reg4(config: ViTConfig) -> ViTConfig:
    """The same with four registers; only patches have positions."""
    return replace(config, registers=4, prefix_positions=False)


CONFIGS = {
    "vit_tiny_patch16_224": TI16,
    "vit_tiny_patch16_384": replace(TI16, image_size=AT_384),
    "vit_small_patch16_224": S16,
    "vit_small_patch16_384": replace(S16, image_size=AT_384),
    "vit_small_patch32_224": replace(S16, patch_size=32),
    "vit_small_patch32_384": replace(S16, patch_size=32, image_size=AT_384),
    "vit_base_patch8_224": replace(B16, patch_size=8),
    "vit_base_patch16_224": B16,
    "vit_base_patch16_384": replace(B16, image_size=AT_384),
    "vit_base_patch32_224": replace(B16, patch_size=32),
    "vit_base_patch32_384": replace(B16, patch_size=32, image_size=AT_384),
    "vit_large_patch16_224": L16,
    "vit_large_patch16_384": replace(L16, image_size=AT_384),
    "vit_large_patch32_224": replace(L16, patch_size=32),
    "vit_large_patch32_384": replace(L16, patch_size=32, image_size=AT_384),
    "vit_huge_patch14_224": H14,
    "vit_small_patch14_dinov2": DINOV2_S14,
    "vit_base_patch14_dinov2": DINOV2_B14,
    "vit_large_patch14_dinov2": DINOV2_L14,
    "vit_small_patch14_reg4_dinov2": reg4(DINOV2_S14),
    "vit_base_patch14_reg4_dinov2": reg4(DINOV2_B14),
    "vit_large_patch14_reg4_dinov2": reg4(DINOV2_L14),
}
