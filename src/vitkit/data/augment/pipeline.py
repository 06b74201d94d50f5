"""All that is done at random to the images of a training batch, in order, once they are cut."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from numbers import Real

from torch import Tensor

from vitkit.data.augment.colour import random_jitter
from vitkit.data.augment.erase import random_erase
from vitkit.data.augment.geometry import random_mirror, random_shift
from vitkit.data.augment.policy import RandAugment, ThreeAugment, TrivialAugment
from vitkit.errors import ConfigError

POLICIES = ("none", "randaugment", "trivialaugment", "three_augment")

Policy = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Shift, mirror, policy, jitter, in timm's order: (B, C, H, W) uint8 -> the same.

    `erased` does the last, once the batch is normalised. Every image has its own parameters.

    Raises:
        ConfigError: a value outside its range.
    """

    mirror: bool = True  # left to right, half of the images
    shift: float = 0.0  # share of the side that an image moves by at most, reflecting
    policy: str = "none"  # one of `POLICIES`
    num_ops: int = 2  # of RandAugment
    magnitude: float = 9.0  # of RandAugment, 0 to 10
    magnitude_std: float = 0.5  # of RandAugment
    jitter: float = 0.0  # brightness, contrast and saturation change by this factor at most
    hue: float = 0.0  # share of the colour circle that hues turn by at most, either way
    erase: float = 0.0  # probability that a box becomes noise

    def __post_init__(self) -> None:
        if not isinstance(self.mirror, bool):
            raise ConfigError(f"mirror={self.mirror!r} is neither true nor false")
        if not isinstance(self.shift, Real) or not 0 <= self.shift < 1:
            raise ConfigError(f"shift={self.shift!r} is not in [0, 1); try 0.125")
        if not isinstance(self.jitter, Real) or not 0 <= self.jitter < inf:
            raise ConfigError(f"jitter={self.jitter!r} is not a number from 0; try 0.3")
        if not isinstance(self.hue, Real) or not 0 <= self.hue <= 0.5:
            raise ConfigError(f"hue={self.hue!r} is not a share in [0, 0.5]; try 0.1")
        if not isinstance(self.erase, Real) or not 0 <= self.erase <= 1:
            raise ConfigError(f"erase={self.erase!r} is not a probability in [0, 1]; try 0.25")
        self._policy()

    def __call__(self, images: Tensor) -> Tensor:
        if self.shift:
            images = random_shift(images, self.shift)
        if self.mirror:
            images = random_mirror(images)
        if policy := self._policy():
            images = policy(images)
        jitters = self.jitter or self.hue
        return random_jitter(images, self.jitter, self.hue) if jitters else images

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
