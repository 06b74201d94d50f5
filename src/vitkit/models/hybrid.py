"""Hybrids: ViTs whose patches are cut from the map of a CNN (arXiv:2010.11929, section 3.1)."""

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.patch import HybridEmbed, cells_of_patch
from vitkit.layers.same import MaxPoolSame
from vitkit.layers.weight_standard import StdConv2d
from vitkit.models.backbone import Checkpointed
from vitkit.models.resnet import ResNet, ResNetConfig
from vitkit.models.vit import B16, ViT, ViTConfig

# What is added to the variance of each filter of weights, to its deviation, and to the variance of
# group norms: by timm, whose results we give, and by Google's own code for the same weights.
EPSILONS = {"timm": (1e-8, 0.0, 1e-5), "google": (0.0, 1e-5, 1e-6)}


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridConfig(ViTConfig):
    """A ViT on the map of a ResNet (arXiv:2010.11929, section 3.1); the defaults are R50+ViT-B/16.

    `patch_size` stays in pixels: a patch is one or more cells of the map, each way.

    Raises:
        ConfigError: as `ViTConfig`, a patch that is no whole number of cells, or a `stem`.
    """

    backbone: Literal["bit", "resnet"] = "bit"  # arXiv:1912.11370 or arXiv:1512.03385
    depths: tuple[int, ...] = (3, 4, 9)  # bottlenecks of each stage; none leaves BiT its stem
    epsilons: Literal["timm", "google"] = "timm"  # of BiT; EPSILONS has them

    def __post_init__(self) -> None:
        ViTConfig.__post_init__(self)  # super() does not see through slots before Python 3.14
        cells_of_patch(self.patch_size, self.cell)  # refuses what does not divide
        if self.stem:
            raise ConfigError(f"stem={self.stem} has no place before a backbone; set stem=()")
        if self.backbone == "resnet":
            ResNetConfig(depths=self.depths)  # refuses stages that are not four

    @property
    def resnet(self) -> ResNetConfig:
        """A plain ResNet as backbone."""
        return ResNetConfig(depths=self.depths, in_channels=self.in_channels, num_classes=0)

    @property
    def cell(self) -> int:
        """Pixels that a cell of the map is wide: 4 after the stem and after the first stage."""
        return 4 << max(len(self.depths) - 1, 0)

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels after the stem, and after each stage."""
        return 64, *(256 * 2**stage for stage in range(len(self.depths)))


class Hybrid(ViT):
    """A CNN, then a ViT on its map instead of on pixels: (B, C, H, W) -> (B, K).

    Any height and width are taken. Parameter names and results are timm's, and those in a plain
    ResNet torchvision's.
    """

    config: HybridConfig

    def new_patch_embed(self) -> nn.Module:
        """What makes patches of an image: (B, C, H, W) -> (B, h, w, D)."""
        c = self.config
        cells = c.patch_size // c.cell
        if c.backbone == "bit":
            return HybridEmbed(BiT(c) if c.depths else BiTStem(c), c.dims[-1], c.dim, cells)
        resnet = ResNet(c.resnet)
        resnet.reset_classifier(0, "")  # so that its last map comes out
        return HybridEmbed(resnet, c.dims[-1], c.dim, cells)


class BiT(Checkpointed):
    """ResNet with standardised weights and group norm (arXiv:1912.11370, section 3.3).

    (B, C, H, W) -> (B, D, ceil(H / cell), ceil(W / cell)). As in Google's hybrids, norms come after
    the convolutions, where BiT itself has them before; the strides are in the 3x3 convolutions.
    """

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.stem = BiTStem(config)
        self.stages = nn.Sequential(*(BiTStage(config, i) for i in range(len(config.depths))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, 64, H/4, W/4)
        for stage in self.stages:
            for block in cast(BiTStage, stage).blocks:
                x = self.run_block(block, x)
        return x  # (B, 1024, H/16, W/16) after three stages


class BiTStem(nn.Sequential):
    """7x7 convolution and pooling: (B, C, H, W) -> (B, 64, ceil(H / 4), ceil(W / 4))."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.conv = _conv(config, config.in_channels, config.dims[0], 7, 2)
        self.norm = _norm(config, config.dims[0])
        self.act = nn.ReLU()
        self.pool = MaxPoolSame(3, 2)


class BiTStage(nn.Module):
    """Bottlenecks of one width; the first halves the map, except in the first stage."""

    def __init__(self, config: HybridConfig, stage: int) -> None:
        super().__init__()
        before, dim = config.dims[stage : stage + 2]
        first = Bottleneck(config, before, dim, 2 if stage else 1)
        others = (Bottleneck(config, dim, dim) for _ in range(config.depths[stage] - 1))
        self.blocks = nn.Sequential(first, *others)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (arXiv:1512.03385, fig. 5).

    (B, C, h, w) -> (B, D, ceil(h / stride), ceil(w / stride)).
    """

    def __init__(self, config: HybridConfig, before: int, dim: int, stride: int = 1) -> None:
        super().__init__()
        c, narrow = config, dim // 4
        self.downsample = Shortcut(c, before, dim, stride) if before != dim else nn.Identity()
        self.conv1 = _conv(c, before, narrow, 1)
        self.norm1 = _norm(c, narrow)
        self.conv2 = _conv(c, narrow, narrow, 3, stride)
        self.norm2 = _norm(c, narrow)
        self.conv3 = _conv(c, narrow, dim, 1)
        self.norm3 = _norm(c, dim)
        nn.init.zeros_(self.norm3.weight)  # a new block is its shortcut, as in Google's code

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)
        x = F.relu(self.norm1(self.conv1(x)))  # (B, D/4, h, w)
        x = F.relu(self.norm2(self.conv2(x)))  # (B, D/4, h/stride, w/stride)
        x = F.relu(self.norm3(self.conv3(x)) + shortcut)  # (B, D, h/stride, w/stride)
        return x


class Shortcut(nn.Sequential):
    """A 1x1 convolution where width or size change: (B, C, h, w) -> (B, D, h/stride, w/stride)."""

    def __init__(self, config: HybridConfig, before: int, dim: int, stride: int) -> None:
        super().__init__()
        self.conv = _conv(config, before, dim, 1, stride)
        self.norm = _norm(config, dim)


def _conv(c: HybridConfig, before: int, dim: int, kernel_size: int, stride: int = 1) -> StdConv2d:
    eps, std_eps, _ = EPSILONS[c.epsilons]
    return StdConv2d(before, dim, kernel_size, stride, eps=eps, std_eps=std_eps)


def _norm(c: HybridConfig, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=EPSILONS[c.epsilons][2])


R50_B16 = HybridConfig()
R26 = replace(R50_B16, depths=(2, 2, 2, 2), patch_size=32)
R26_S32 = replace(R26, dim=384, num_heads=6)
RESNET50_B32 = replace(R26, depths=(3, 4, 6, 3), backbone="resnet")  # patches of a 7x7x2048 map
R50_L32 = replace(R26, depths=(3, 4, 6, 3), dim=1024, depth=24, num_heads=16)
STEM_TI32 = replace(R26, depths=(), dim=192, num_heads=3)  # though names say 16
AT_384 = (384, 384)

# The stem's widths: arXiv:2106.14881, section 3; the rest: its table 1.
VITC_18GF = replace(B16, depth=11, stem=(64, 128, 128, 256, 256, 512))
VITC_4GF = replace(B16, depth=11, stem=(48, 96, 192, 384), dim=384, num_heads=6, mlp_ratio=3.0)
VITC_1GF = replace(VITC_4GF, stem=(24, 48, 96, 192), dim=192, num_heads=3)

# Ours, for images of 32 pixels and little time: docs/log.md, 2026-11-24, tells how it was found.
COMPACT = ViTConfig(
    image_size=(32, 32),
    patch_size=8,
    stem=(24, 48, 48, 128, 128),
    stem_pool=True,
    dim=128,
    depth=1,
    num_heads=4,
    pool="mean",
    class_token=False,
    qk_norm=True,
)

CONFIGS: dict[str, ViTConfig] = {
    "vit_tiny_r_s16_p8_224": STEM_TI32,
    "vit_tiny_r_s16_p8_384": replace(STEM_TI32, image_size=AT_384),
    "vit_small_r26_s32_224": R26_S32,
    "vit_small_r26_s32_384": replace(R26_S32, image_size=AT_384),
    "vit_base_r26_s32_224": R26,
    "vit_base_r50_s16_224": R50_B16,
    "vit_base_r50_s16_384": replace(R50_B16, image_size=AT_384),
    "vit_large_r50_s32_224": R50_L32,
    "vit_large_r50_s32_384": replace(R50_L32, image_size=AT_384),
    "vit_base_resnet50_224": RESNET50_B32,
    "vitc_1gf_224": VITC_1GF,
    "vitc_4gf_224": VITC_4GF,
    "vitc_18gf_224": VITC_18GF,
    "vitc_36gf_224": replace(VITC_18GF, depth=13, dim=1024, num_heads=16),
    "vitc_compact_32": COMPACT,
}
