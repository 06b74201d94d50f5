"""The textbook CNN that small ViTs are measured against: convolutions, ReLU and max pooling."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from vitkit.errors import ConfigError
from vitkit.models import check
from vitkit.models.backbone import Config
from vitkit.models.cnn import CNN, Block, he_normal


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNetConfig(Config):
    """A plain CNN; the defaults are three convolutions for images of 32 pixels, such as CIFAR-10's.

    Raises:
        ConfigError: a number out of range, or no convolution.
    """

    image_size: tuple[int, int] = (32, 32)  # pixels, height and width
    dims: tuple[int, ...] = (32, 64, 128)  # channels of each convolution

    def __post_init__(self) -> None:
        check.numbers(self)
        if not self.dims:
            raise ConfigError("dims=() leaves no convolution; try (32, 64, 128)")

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        return self.dims[-1]


class ConvNet(CNN):
    """3x3 convolutions, each with ReLU and 2x2 max pooling, mean, head: (B, C, H, W) -> (B, K)."""

    config: ConvNetConfig
    block = r"convs\.[1-9]\d*"  # all but the first convolution, which takes the place of a stem

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__(config)
        c = config
        self.convs = nn.Sequential(*(Layer(*pair) for pair in pairwise((c.in_channels, *c.dims))))
        self.feature_info = [
            {"module": f"convs.{i}", "num_chs": dim, "reduction": 2 ** (i + 1)}
            for i, dim in enumerate(c.dims)
        ]
        self.apply(he_normal)
        self.head = self.new_head(c.num_classes)

    def stages(self) -> Sequence[Sequence[Block]]:
        """Each convolution for itself: (B, 32, 16, 16), (B, 64, 8, 8), (B, 128, 4, 4)."""
        return [[layer] for layer in self.convs]


class Layer(nn.Sequential):
    """3x3 convolution, ReLU, 2x2 max pooling: (B, C, h, w) -> (B, D, ceil(h / 2), ceil(w / 2))."""

    def __init__(self, before: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, dim, 3, padding=1)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)


CONFIGS = {"convnet_3_32": ConvNetConfig()}
