"""Swin: a hierarchical vision transformer using shifted windows (arXiv:2103.14030)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.attention import width_of_head
from vitkit.layers.drop_path import DropPath, linear_rates
from vitkit.layers.init import truncated_normal
from vitkit.layers.mlp import Mlp
from vitkit.layers.patch import PatchEmbed
from vitkit.layers.window import (
    WindowAttention,
    fit_window,
    pad_to_multiple,
    partition,
    reverse,
    shift_mask,
)
from vitkit.models import check
from vitkit.models.backbone import Backbone, Config, check_format, take


@dataclass(frozen=True, slots=True, kw_only=True)
class SwinConfig(Config):
    """Swin (arXiv:2103.14030, section 3.3); the defaults are Swin-T.

    Raises:
        ConfigError: a number out of range, stages that disagree in number, or heads that do not
            divide a stage's width.
    """

    patch_size: int = 4  # pixels
    dim: int = 96  # of the first stage; doubles at each next one
    depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks of each stage
    num_heads: tuple[int, ...] = (3, 6, 12, 24)  # of each stage
    window_size: int = 7  # tokens, both sides; smaller where the map is smaller
    mlp_ratio: float = 4.0
    dropout: float = 0.0  # after the patches and after every linear layer but qkv
    attention_dropout: float = 0.0
    drop_path: float = 0.2  # of the last block, rising linearly from 0 at the first

    def __post_init__(self) -> None:
        check.numbers(self)
        check.mlp_width(self.dim, self.mlp_ratio)
        if not self.depths or len(self.depths) != len(self.num_heads):
            raise ConfigError(
                f"depths={self.depths} and num_heads={self.num_heads} differ in length; "
                "give one of each for every stage"
            )
        for stage, (dim, num_heads) in enumerate(zip(self.dims, self.num_heads, strict=True)):
            width_of_head(dim, num_heads, of=f" of stage {stage}")  # refuses what does not divide

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of each stage."""
        return tuple(self.dim * 2**stage for stage in range(len(self.depths)))

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Tokens down and across at each stage."""
        height, width = self.image_size
        strides = [self.patch_size * 2**stage for stage in range(len(self.depths))]
        return tuple((-(-height // stride), -(-width // stride)) for stride in strides)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.grids[0]

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        return self.dims[-1]


class Swin(Backbone):
    """Patches, four stages of shifted windows, mean, head: (B, C, H, W) -> (B, K).

    Any height and width are taken: maps are padded with zeros to whole patches, pairs and windows.
    The windows themselves follow the configured `image_size`. Parameter names and results are
    timm's.
    """

    config: SwinConfig
    classifier = "head.fc"
    block = r"layers\.\d+\.blocks\.\d+"

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        c = config
        self.patch_embed = PatchEmbed(c.in_channels, c.dim, c.patch_size, norm_eps=1e-5)
        self.pos_drop = nn.Dropout(c.dropout)
        rates = iter(linear_rates(c.drop_path, sum(c.depths)))
        self.layers = nn.Sequential(
            *(self.new_stage(i, list(islice(rates, depth))) for i, depth in enumerate(c.depths))
        )
        self.norm = nn.LayerNorm(c.num_features)
        self.head = nn.Sequential()  # of one layer, for timm's name
        self.head.fc = self.new_head(c.num_classes)
        self.feature_info = [
            {"module": f"layers.{i}", "num_chs": dim, "reduction": c.patch_size * 2**i}
            for i, dim in enumerate(c.dims)
        ]
        self.apply(truncated_normal)

    def new_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        """One stage with new weights; `drop_path` has a rate for each of its blocks."""
        return Stage(self.config, stage, drop_path, merging=PatchMerging, block=Block)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map: (B, C, H, W) -> (B, h, w, D), h and w a 32nd of the image's, rounded up."""
        x = self.pos_drop(self.patch_embed(x))  # (B, H/4, W/4, 96) in Swin-T
        for stage in self.layers:
            x = self.run_stage(stage, x)
        x = self.norm(x)  # (B, H/32, W/32, 768)
        return x

    def run_stage(self, stage: Any, x: Tensor) -> Tensor:
        """One stage, block by block: (B, h, w, D) -> (B, h/2, w/2, 2 D), or as large at first."""
        x = stage.downsample(x)
        for block in stage.blocks:
            x = self.run_block(block, x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW"] = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """What stages give: (B, C, H, W) -> last map (B, h, w, D), [(B, D, h, w), ...].

        `indices` are stages, negative ones from the end, or how many of the last. `norm` applies
        the last norm to the last stage's map; `intermediates_only` leaves the last map out, and
        `stop_early` what comes after the last index.

        Raises:
            ConfigError: an index that there is not, or an unknown `output_fmt`.
        """
        check_format(output_fmt, ("NCHW",))
        last = len(self.layers) - 1
        chosen = take(indices, len(self.layers))
        x = self.pos_drop(self.patch_embed(x))
        maps = []
        for i, stage in enumerate(self.layers[: max(chosen) + 1] if stop_early else self.layers):
            x = self.run_stage(stage, x)
            normed = self.norm(x) if i == last else x
            if i in chosen:
                maps.append((normed if norm else x).permute(0, 3, 1, 2).contiguous())
        return maps if intermediates_only else (normed, maps)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Average the map and classify: (B, h, w, D) -> (B, K), or (B, D) with `pre_logits`."""
        x = x.mean(dim=(1, 2)) if self.pooled else x
        return x if pre_logits else self.head(x)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, besides vectors, that weight decay should leave alone."""
        tables = "relative_position_bias_table"
        return {name for name, _ in self.named_parameters() if name.endswith(tables)}


class Stage(nn.Module):
    """Halve the map, except in the first stage, then attend: (B, h, w, D) -> (B, h/2, w/2, 2 D)."""

    def __init__(
        self,
        config: SwinConfig,
        stage: int,
        drop_path: Sequence[float],
        *,
        merging: type[nn.Module],
        block: type[nn.Module],
    ) -> None:
        super().__init__()
        self.downsample = merging(config.dims[stage - 1]) if stage else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                block(config, stage, shifted=bool(index % 2), drop_path=rate)
                for index, rate in enumerate(drop_path)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.downsample(x))
        return x


class PatchMerging(nn.Module):
    """Merge four neighbours (arXiv:2103.14030, section 3.1): (B, h, w, D) -> (B, h/2, w/2, 2 D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduction(self.norm(join_neighbours(x)))
        return x


def join_neighbours(x: Tensor) -> Tensor:
    """Put four neighbours one after the other: (B, h, w, D) -> (B, h/2, w/2, 4 D).

    Odd sides are padded with zeros below and to the right.
    """
    x = pad_to_multiple(x, (2, 2))
    batch, height, width, dim = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, dim)
    # The order of the four is (0, 0), (1, 0), (0, 1), (1, 1), as the weights were trained.
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)


class Block(nn.Module):
    """Attention in windows, then an MLP (arXiv:2103.14030, eq. 3): (B, h, w, D) -> (B, h, w, D).

    A `shifted` block moves its windows by half a window, so that they straddle those of the block
    before. Padding comes after the roll, as in timm; the official code pads first, which differs
    only on maps that are no multiple of the window.
    """

    def __init__(self, config: SwinConfig, stage: int, *, shifted: bool, drop_path: float) -> None:
        super().__init__()
        c, dim = config, config.dims[stage]
        self.window, shift = fit_window(c.grids[stage], c.window_size)
        self.shift = shift if shifted else (0, 0)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = self.new_attention(c, stage)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * c.mlp_ratio), dropout=c.dropout)
        self.drop_path2 = DropPath(drop_path)

    def new_attention(self, config: SwinConfig, stage: int) -> nn.Module:
        """The attention inside a window."""
        return WindowAttention(
            config.dims[stage],
            config.num_heads[stage],
            self.window,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attend(self.norm1(x)))
        x = x + self.drop_path2(self.mlp(self.norm2(x)))
        return x

    def attend(self, x: Tensor) -> Tensor:
        """Roll, cut into windows, attend, and put back: (B, h, w, D) -> (B, h, w, D)."""
        height, width = x.shape[1:3]
        (down, across), mask = self.shift, None
        if down or across:
            x = x.roll((-down, -across), (1, 2))
        x = pad_to_multiple(x, self.window)
        size = (x.shape[1], x.shape[2])
        if down or across:
            mask = shift_mask(size, self.window, self.shift, device=x.device, dtype=x.dtype)
        x = reverse(self.attn(partition(x, self.window), mask), self.window, size)
        x = x[:, :height, :width]
        return x.roll(self.shift, (1, 2)) if down or across else x


TINY = SwinConfig()
SMALL = replace(TINY, depths=(2, 2, 18, 2), drop_path=0.3)
BASE = replace(SMALL, dim=128, num_heads=(4, 8, 16, 32), drop_path=0.5)
LARGE = replace(SMALL, dim=192, num_heads=(6, 12, 24, 48), drop_path=0.2)

CONFIGS = {
    "swin_tiny_patch4_window7_224": TINY,
    "swin_small_patch4_window7_224": SMALL,
    "swin_base_patch4_window7_224": BASE,
    "swin_base_patch4_window12_384": replace(BASE, image_size=(384, 384), window_size=12),
    "swin_large_patch4_window7_224": LARGE,
    "swin_large_patch4_window12_384": replace(LARGE, image_size=(384, 384), window_size=12),
}
