"""RegNetY: networks from a designed design space (arXiv:2003.13678)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import log
from typing import Literal

from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.drop_path import DropPath, linear_rates
from vitkit.layers.norm import BatchNorm
from vitkit.models import check
from vitkit.models.backbone import Config
from vitkit.models.cnn import CNN, Block, he_normal

STEM = 32  # channels of the stem
WIDTH_STEP = 8  # what widths of blocks are rounded to


@dataclass(frozen=True, slots=True, kw_only=True)
class RegNetConfig(Config):
    """RegNetY (arXiv:2003.13678, section 3.3); the defaults are RegNetY-4.0GF.

    Depths and widths of the four stages follow from five numbers: block j would be w0 + wa j wide,
    were not widths w0 wm^s, s whole, and multiples of 8 and of the groups.

    Raises:
        ConfigError: a number out of range, or numbers that do not make four stages.
    """

    depth: int = 22  # blocks of all stages
    w0: int = 96  # width of block 0, in channels
    wa: float = 31.41  # channels that each next block would add
    wm: float = 2.24  # ratio of the widths of stages
    group_width: int = 64  # channels of a group of the 3x3 convolutions
    rounding: Literal["nearest", "torchvision"] = "nearest"  # of widths to whole groups
    drop_path: float = 0.0  # of the last block, rising linearly from 0 at the first

    def __post_init__(self) -> None:
        check.numbers(self)
        check.choices(self)
        if self.w0 % WIDTH_STEP:
            below = self.w0 // WIDTH_STEP * WIDTH_STEP
            raise ConfigError(f"w0={self.w0} is not a multiple of 8; try {below + WIDTH_STEP}")
        if len(self.depths) != 4:
            raise ConfigError(
                f"w0={self.w0}, wa={self.wa}, wm={self.wm} and depth={self.depth} make "
                f"{len(self.depths)} stages, not four; try depth=22, w0=96, wa=31.41, wm=2.24"
            )

    @property
    def blocks_of_width(self) -> dict[int, int]:
        """Width of each stage before it is fitted to groups, with its blocks (eq. 2 to 4)."""
        linear = (self.w0 + self.wa * block for block in range(self.depth))
        exponents = (round(log(width / self.w0) / log(self.wm)) for width in linear)
        widths = (self.w0 * self.wm**exponent for exponent in exponents)
        return Counter(WIDTH_STEP * round(width / WIDTH_STEP) for width in widths)

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(self.blocks_of_width.values())

    @property
    def group_widths(self) -> tuple[int, ...]:
        """Channels of a group in each stage: all where there are fewer."""
        return tuple(min(self.group_width, width) for width in self.blocks_of_width)

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of each stage, a multiple of its groups'."""
        pairs = zip(self.blocks_of_width, self.group_widths, strict=True)
        if self.rounding == "nearest":
            return tuple(group * round(width / group) for width, group in pairs)
        # torchvision rounds halves up, and up too what would lose more than a tenth.
        halves_up = (
            (width, group, (width + group // 2) // group * group) for width, group in pairs
        )
        return tuple(dim if dim >= 0.9 * width else dim + group for width, group, dim in halves_up)

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        return self.dims[-1]


class RegNet(CNN):
    """3x3 convolution, four stages of residual blocks, mean, head: (B, C, H, W) -> (B, K).

    Parameter names and results are timm's.
    """

    config: RegNetConfig
    classifier = "head.fc"
    block = r"s\d+\.b\d+"

    def __init__(self, config: RegNetConfig) -> None:
        super().__init__(config)
        c = config
        self.stem = ConvNorm(c.in_channels, STEM, 3, stride=2)
        rates = iter(linear_rates(c.drop_path, c.depth))
        self.s1 = _stage(c, 0, rates)
        self.s2 = _stage(c, 1, rates)
        self.s3 = _stage(c, 2, rates)
        self.s4 = _stage(c, 3, rates)
        self.feature_info = [{"module": "stem", "num_chs": STEM, "reduction": 2}]
        self.feature_info += [
            {"module": f"s{i + 1}", "num_chs": dim, "reduction": 4 * 2**i}
            for i, dim in enumerate(c.dims)
        ]
        self.apply(he_normal)
        self.head = nn.Sequential()  # of one layer, for timm's name
        self.head.fc = self.new_head(c.num_classes)

    def stages(self) -> Sequence[Sequence[Block]]:
        """The blocks of each stage."""
        return [
            [self.stem],  # (B, 32, H/2, W/2)
            [*self.s1],  # (B, 128, H/4, W/4) in RegNetY-4.0GF
            [*self.s2],
            [*self.s3],
            [*self.s4],  # (B, 1088, H/32, W/32)
        ]


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions beside a shortcut (figure 4).

    (B, C, h, w) -> (B, D, h/stride, w/stride). The bottleneck is none: all three are D wide.
    """

    def __init__(self, before: int, dim: int, group: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = ConvNorm(before, dim, 1)
        self.conv2 = ConvNorm(dim, dim, 3, stride=stride, groups=dim // group)
        self.se = SqueezeExcite(dim, squeezed(before))
        self.conv3 = ConvNorm(dim, dim, 1, act=False)
        self.drop_path = DropPath(drop_path)
        changes = before != dim or stride > 1
        shortcut = ConvNorm(before, dim, 1, stride=stride, act=False) if changes else nn.Identity()
        self.downsample = shortcut
        self.act3 = nn.ReLU()
        nn.init.zeros_(self.conv3.bn.weight)  # a new block is its shortcut (arXiv:1706.02677)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)  # (B, D, h, w)
        y = self.se(self.conv2(y))  # (B, D, h/stride, w/stride)
        y = self.drop_path(self.conv3(y))
        x = self.act3(self.downsample(x) + y)
        return x


class SqueezeExcite(nn.Module):
    """Gains for all channels, seen from the mean of each (arXiv:1709.01507): (B, D, h, w) -> same.

    Two 1x1 convolutions with `hidden` channels between them make the gains, in (0, 1).
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = nn.ReLU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean(dim=(2, 3), keepdim=True)  # (B, D, 1, 1)
        gain: Tensor = self.fc2(self.act(self.fc1(y))).sigmoid()
        return x * gain


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, with `act`, ReLU: (B, C, h, w) -> (B, D, h/stride, w/stride)."""

    def __init__(
        self,
        before: int,
        dim: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            before,
            dim,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.bn = BatchNorm(dim)
        self.act = nn.ReLU() if act else nn.Identity()


def squeezed(channels: int) -> int:
    """Channels inside the squeeze of a block that takes in `channels`: a quarter."""
    return round(channels / 4)


def _stage(c: RegNetConfig, stage: int, rates: Iterator[float]) -> nn.Sequential:
    """The blocks of a stage; the first halves the map."""
    blocks = nn.Sequential()
    before, dim, group = (STEM, *c.dims)[stage], c.dims[stage], c.group_widths[stage]
    for index, rate in enumerate(islice(rates, c.depths[stage])):
        stride = 1 if index else 2
        block = Bottleneck(before, dim, group, stride=stride, drop_path=rate)
        blocks.add_module(f"b{index + 1}", block)
        before = dim
    return blocks


Y_4GF = RegNetConfig()
Y_800MF = replace(Y_4GF, depth=14, w0=56, wa=38.84, wm=2.4, group_width=16)
Y_8GF = replace(Y_4GF, depth=17, w0=192, wa=76.82, wm=2.19, group_width=56)

# The paper's; those with tv are torchvision's, regnet_y_800mf and
# regnet_y_8gf. Its 400mf, 1_6gf, 3_2gf, 16gf and 32gf are 004, 016, 032, 160 and 320.
CONFIGS = {
    "regnety_002": replace(Y_4GF, depth=13, w0=24, wa=36.44, wm=2.49, group_width=8),
    "regnety_004": replace(Y_4GF, depth=16, w0=48, wa=27.89, wm=2.09, group_width=8),
    "regnety_006": replace(Y_4GF, depth=15, w0=48, wa=32.54, wm=2.32, group_width=16),
    "regnety_008": Y_800MF,
    "regnety_008_tv": replace(Y_800MF, rounding="torchvision"),
    "regnety_016": replace(Y_4GF, depth=27, w0=48, wa=20.71, wm=2.65, group_width=24),
    "regnety_032": replace(Y_4GF, depth=21, w0=80, wa=42.63, wm=2.66, group_width=24),
    "regnety_040": Y_4GF,
    "regnety_064": replace(Y_4GF, depth=25, w0=112, wa=33.22, wm=2.27, group_width=72),
    "regnety_080": Y_8GF,
    "regnety_080_tv": replace(Y_8GF, rounding="torchvision"),
    "regnety_120": replace(Y_4GF, depth=19, w0=168, wa=73.36, wm=2.37, group_width=112),
    "regnety_160": replace(Y_4GF, depth=18, w0=200, wa=106.23, wm=2.48, group_width=112),
    "regnety_320": replace(Y_4GF, depth=20, w0=232, wa=115.89, wm=2.53, group_width=232),
}
