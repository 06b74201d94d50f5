"""SwinV2: Swin that stays stable when large and moves across window sizes (arXiv:2111.09883)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.cosine_window import CosineWindowAttention
from vitkit.models.swin import Block, Stage, Swin, SwinConfig, join_neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class SwinV2Config(SwinConfig):
    """SwinV2 (arXiv:2111.09883, section 3); the defaults are SwinV2-T with windows of 8 tokens.

    Raises:
        ConfigError: as `SwinConfig`, and windows of pretraining that are not one for each stage.
    """

    image_size: tuple[int, int] = (256, 256)
    window_size: int = 8
    # Windows, in tokens, of each stage with which position biases were learned; 0 is our own.
    pretrained_window_sizes: tuple[int, ...] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        SwinConfig.__post_init__(self)  # super() does not see through slots before Python 3.14
        if len(self.pretrained_window_sizes) != len(self.depths):
            raise ConfigError(
                f"depths={self.depths} and pretrained_window_sizes={self.pretrained_window_sizes} "
                "differ in length; give one of each for every stage"
            )


class SwinV2(Swin):
    """Swin with normalised branches, cosine attention and computed biases: (B, C, H, W) -> (B, K).

    Any height and width are taken, as in `Swin`. Parameter names and results are timm's.
    """

    config: SwinV2Config

    def new_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        """One stage with new weights; `drop_path` has a rate for each of its blocks."""
        merging, block = PostNormMerging, PostNormBlock
        return Stage(self.config, stage, drop_path, merging=merging, block=block)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone, as timm has them."""
        names = (name for name, _ in self.named_parameters())
        return {name for name in names if "cpb_mlp" in name or "logit_scale" in name}


class PostNormMerging(nn.Module):
    """Merge four neighbours, then normalise: (B, h, w, D) -> (B, h/2, w/2, 2 D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.reduction(join_neighbours(x)))
        return x


class PostNormBlock(Block):
    """Attention, then an MLP, each normalised before it is added: (B, h, w, D) -> (B, h, w, D).

    So values do not grow with depth (arXiv:2111.09883, fig. 1 and section 3.2). The norms start at
    zero, as in the authors' code: a new block changes nothing.
    """

    def __init__(
        self, config: SwinV2Config, stage: int, *, shifted: bool, drop_path: float
    ) -> None:
        super().__init__(config, stage, shifted=shifted, drop_path=drop_path)
        nn.init.zeros_(self.norm1.weight)
        nn.init.zeros_(self.norm2.weight)

    def new_attention(self, config: SwinConfig, stage: int) -> nn.Module:
        """The attention inside a window."""
        assert isinstance(config, SwinV2Config)
        side = config.pretrained_window_sizes[stage]
        return CosineWindowAttention(
            config.dims[stage],
            config.num_heads[stage],
            self.window,
            pretrained=(side, side) if side else self.window,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.norm1(self.attend(x)))
        x = x + self.drop_path2(self.norm2(self.mlp(x)))
        return x


TINY = SwinV2Config()
SMALL = replace(TINY, depths=(2, 2, 18, 2), drop_path=0.3)
BASE = replace(SMALL, dim=128, num_heads=(4, 8, 16, 32), drop_path=0.5)
BASE_192 = replace(BASE, image_size=(192, 192), window_size=12, drop_path=0.2)
LARGE_192 = replace(BASE_192, dim=192, num_heads=(6, 12, 24, 48))


def enlarged(config: SwinV2Config, side: int, window_size: int) -> SwinV2Config:
    """What is pretrained with 192 pixels and windows of 12, for `side` pixels and larger windows.

    The last of the four maps of 192 pixels is but 6 tokens wide.
    """
    return replace(
        config,
        image_size=(side, side),
        window_size=window_size,
        pretrained_window_sizes=(12, 12, 12, 6),
    )


CONFIGS = {
    "swinv2_tiny_window8_256": TINY,
    "swinv2_tiny_window16_256": replace(TINY, window_size=16),
    "swinv2_small_window8_256": SMALL,
    "swinv2_small_window16_256": replace(SMALL, window_size=16),
    "swinv2_base_window8_256": BASE,
    "swinv2_base_window16_256": replace(BASE, window_size=16),
    "swinv2_base_window12_192": BASE_192,
    "swinv2_base_window12to16_192to256": enlarged(BASE_192, 256, 16),
    "swinv2_base_window12to24_192to384": enlarged(BASE_192, 384, 24),
    "swinv2_large_window12_192": LARGE_192,
    "swinv2_large_window12to16_192to256": enlarged(LARGE_192, 256, 16),
    "swinv2_large_window12to24_192to384": enlarged(LARGE_192, 384, 24),
}
