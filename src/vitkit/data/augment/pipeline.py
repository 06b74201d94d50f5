"""All that is done at random to the images of a training batch, in order."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from numbers import Real

from torch import Tensor

from vitkit.data.augment.colour import random_jitter
from vitkit.data.augment.crop import random_resized_crop
from vitkit.data.augment.erase import random_erase
from vitkit.data.augment.geometry import random_mirror, random_shift
from vitkit.data.augment.policy import RandAugment, ThreeAugment, TrivialAugment
from vitkit.errors import ConfigError

POLICIES = ("none", "randaugment", "trivialaugment", "three_augment")

Policy = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Crop, shift, mirror, policy, jitter, in timm's order: (B, C, H, W) uint8 -> the same.

    `erased` does the last, once the batch is normalised. Every image has its own parameters.

    Raises:
        ConfigError: a value outside its range.
    """

    mirror: bool = True  # left to right, half of the images
    shift: float = 0.0  # share of the side that an image moves by at most, reflecting
    scale: tuple[float, float] | None = None  # share of the area of a random-resized crop
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width to height of that crop
    policy: str = "none"  # one of `POLICIES`
    num_ops: int = 2  # of RandAugment
    magnitude: float = 9.0  # of RandAugment, 0 to 10
    magnitude_std: float = 0.5  # of RandAugment
    jitter: float = 0.0  # brightness, contrast and saturation change by this factor at most
    erase: float = 0.0  # probability that a box becomes noise

    def __post_init__(self) -> None:
        if not isinstance(self.mirror, bool):
            raise ConfigError(f"mirror={self.mirror!r} is neither true nor false")
        if not isinstance(self.shift, Real) or not 0 <= self.shift < 1:
            raise ConfigError(f"shift={self.shift!r} is not in [0, 1); try 0.125")
        if not isinstance(self.jitter, Real) or not 0 <= self.jitter < inf:
            raise ConfigError(f"jitter={self.jitter!r} is not a number from 0; try 0.3")
        if not isinstance(self.erase, Real) or not 0 <= self.erase <= 1:
            raise ConfigError(f"erase={self.erase!r} is not a probability in [0, 1]; try 0.25")
        if self.scale is not None and (not _is_range(self.scale) or self.scale[1] > 1):
            raise ConfigError(f"scale={self.scale!r} is not (low, high) in (0, 1]; try (0.08, 1)")
        if not _is_range(self.ratio):
            raise ConfigError(f"ratio={self.ratio!r} is not (low, high) above 0; try (3/4, 4/3)")
        self._policy()

    def __call__(self, images: Tensor) -> Tensor:
        if self.scale is not None:
            images = random_resized_crop(images, self.scale, self.ratio)
        if self.shift:
            images = random_shift(images, self.shift)
        if self.mirror:
            images = random_mirror(images)
        if policy := self._policy():
            images = policy(images)
        return random_jitter(images, self.jitter) if self.jitter else images

    def erased(self, batch: Tensor) -> Tensor:
        """Random erasing of a normalised batch: (B, C, H, W) float -> the same."""
        return random_erase(batch, self.erase) if self.erase else batch

    def _policy(self) -> Policy | None:
        if self.policy not in POLICIES:
            raise ConfigError(f"policy={self.policy!r} is unknown; choose {', '.join(POLICIES)}")
        rand_augment = RandAugment(
            num_ops=self.num_ops, magnitude=self.magnitude, magnitude_std=self.magnitude_std
        )
        policies = (None, rand_augment, TrivialAugment(), ThreeAugment())
        return policies[POLICIES.index(self.policy)]


def _is_range(value: object) -> bool:
    """Whether these are two finite numbers above 0, the lower one first."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    low, high = value
    return all(isinstance(n, Real) and isfinite(n) for n in value) and bool(0 < low <= high)
