"""ResNet: deep residual learning for image recognition (arXiv:1512.03385)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.drop_path import DropPath, linear_rates
from vitkit.layers.norm import BatchNorm
from vitkit.models import check
from vitkit.models.backbone import Config
from vitkit.models.cnn import CNN, Block, he_normal

# Seen in torch 2.14 on a CPU: the backward pass of a 1x1 convolution of stride 2, channels last and
# of up to 6 channels, writes beyond its memory.
LEAST_DIM = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetConfig(Config):
    """ResNet (arXiv:1512.03385, table 1); the defaults are ResNet-50.

    Raises:
        ConfigError: a number out of range, an unknown block, or stages that are not four.
    """

    block: Literal["basic", "bottleneck"] = "bottleneck"  # figure 5, left and right
    dim: int = 64  # of the stem and of the first stage's 3x3 convolutions; doubles at each next one
    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage
    drop_path: float = 0.0  # of the last block, rising linearly from 0 at the first

    def __post_init__(self) -> None:
        check.numbers(self)
        check.choices(self)
        if len(self.depths) != 4:
            raise ConfigError(f"depths={self.depths} are not four stages; try (2, 2, 2, 2)")
        if self.dim < LEAST_DIM:
            raise ConfigError(f"dim={self.dim} is too narrow for a ResNet; try {LEAST_DIM}")

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of each stage's map."""
        expansion = 4 if self.block == "bottleneck" else 1
        return tuple(self.dim * 2**stage * expansion for stage in range(4))

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        return self.dims[-1]


class ResNet(CNN):
    """7x7 convolution, pool, four stages of residual blocks, mean, head: (B, C, H, W) -> (B, K).

    The parameter names and results are those that timm and torchvision have in common: a stage's
    first block halves the map in its 3x3 convolution, where the paper has it in the 1x1 before.
    """

    config: ResNetConfig
    classifier = "fc"
    block = r"layer\d+\.\d+"

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        c = config
        self.conv1 = nn.Conv2d(c.in_channels, c.dim, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm(c.dim)
        self.act1 = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(c, 0)
        self.layer2 = _stage(c, 1)
        self.layer3 = _stage(c, 2)
        self.layer4 = _stage(c, 3)
        self.feature_info = [{"module": "act1", "num_chs": c.dim, "reduction": 2}]
        self.feature_info += [
            {"module": f"layer{i + 1}", "num_chs": dim, "reduction": 4 * 2**i}
            for i, dim in enumerate(c.dims)
        ]
        self.apply(he_normal)
        self.fc = self.new_head(c.num_classes)

    def stem(self, x: Tensor) -> Tensor:
        """The first map: (B, C, H, W) -> (B, 64, H/2, W/2)."""
        x = self.act1(self.bn1(self.conv1(x)))
        return x

    def stages(self) -> Sequence[Sequence[Block]]:
        """The blocks of each stage: the rows of the paper's table 1, conv1 to conv5_x."""
        return [
            [self.stem],
            [self.maxpool, *self.layer1],  # (B, 256, H/4, W/4) in ResNet-50
            [*self.layer2],
            [*self.layer3],
            [*self.layer4],  # (B, 2048, H/32, W/32)
        ]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, C, h, w) -> (B, D, h/stride, w/stride)."""

    def __init__(self, before: int, dim: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, dim, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm(dim)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(dim)
        self.drop_path = DropPath(drop_path)
        self.downsample = _shortcut(before, dim, stride)
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))  # (B, D, h/stride, w/stride)
        y = self.drop_path(self.bn2(self.conv2(y)))
        x = self.act2(self.downsample(x) + y)
        return x


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: (B, C, h, w) -> (B, D, h/stride, w/stride).

    The first makes the map narrow, D / 4, for the second, and the third wide again.
    """

    def __init__(self, before: int, dim: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        narrow = dim // 4
        self.conv1 = nn.Conv2d(before, narrow, 1, bias=False)
        self.bn1 = BatchNorm(narrow)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, bias=False)
        self.bn2 = BatchNorm(narrow)
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(narrow, dim, 1, bias=False)
        self.bn3 = BatchNorm(dim)
        self.drop_path = DropPath(drop_path)
        self.downsample = _shortcut(before, dim, stride)
        self.act3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))  # (B, D/4, h, w)
        y = self.act2(self.bn2(self.conv2(y)))  # (B, D/4, h/stride, w/stride)
        y = self.drop_path(self.bn3(self.conv3(y)))  # (B, D, h/stride, w/stride)
        x = self.act3(self.downsample(x) + y)
        return x


def _stage(c: ResNetConfig, stage: int) -> nn.Sequential:
    """The blocks of a stage; the first of all but the first stage halves the map."""
    kind = BasicBlock if c.block == "basic" else Bottleneck
    rates = linear_rates(c.drop_path, sum(c.depths))[sum(c.depths[:stage]) :]
    blocks = nn.Sequential()
    before = (c.dim, *c.dims)[stage]
    for index in range(c.depths[stage]):
        stride = 2 if stage and not index else 1
        block = kind(before, c.dims[stage], stride=stride, drop_path=rates[index])
        last = block.bn2 if isinstance(block, BasicBlock) else block.bn3
        nn.init.zeros_(last.weight)  # a new block is its shortcut (arXiv:1706.02677, section 5.1)
        blocks.append(block)
        before = c.dims[stage]
    return blocks


def _shortcut(before: int, dim: int, stride: int) -> nn.Module:
    """The map itself, or a 1x1 convolution where its width or size changes (option B)."""
    if before == dim and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(before, dim, 1, stride, bias=False), BatchNorm(dim))


RESNET_50 = ResNetConfig()
RESNET_18 = replace(RESNET_50, block="basic", depths=(2, 2, 2, 2))

CONFIGS = {
    "resnet18": RESNET_18,
    "resnet34": replace(RESNET_18, depths=(3, 4, 6, 3)),
    "resnet50": RESNET_50,
    "resnet101": replace(RESNET_50, depths=(3, 4, 23, 3)),
    "resnet152": replace(RESNET_50, depths=(3, 8, 36, 3)),
}
