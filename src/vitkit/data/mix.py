"""Images of a batch mixed with one another, and their labels with them."""

from dataclasses import dataclass
from math import inf
from numbers import Real

import torch
from torch import Tensor
from torch.distributions import Beta

from vitkit.data.augment.box import inside
from vitkit.errors import ConfigError

MODES = ("batch", "pair", "elem")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Mixup (arXiv:1710.09412) or CutMix (arXiv:1905.04899) of each image with its partner.

    The partner stands at the same place in the flipped batch; of an odd batch the image in the
    middle is its own. Images (B, C, H, W) float and targets (B, K) float -> the same shapes.
    Mode `batch` draws once for all images, `pair` for two partners and `elem` for each image.

    Raises:
        ConfigError: a value outside its range.
    """

    mixup: float = 0.0  # alpha of the Beta distribution of an image's share; 0: no mixup
    cutmix: float = 0.0  # likewise, of its share of the area; 0: no CutMix
    probability: float = 1.0  # of mixing at all
    switch: float = 0.5  # probability of CutMix, where both are on
    mode: str = "batch"  # one of `MODES`

    def __post_init__(self) -> None:
        for name, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not isinstance(alpha, Real) or not 0 <= alpha < inf:
                raise ConfigError(f"{name}={alpha!r} is not a number from 0; 0 turns it off")
        for name, share in (("probability", self.probability), ("switch", self.switch)):
            if not isinstance(share, Real) or not 0 <= share <= 1:
                raise ConfigError(f"{name}={share!r} is not a probability in [0, 1]")
        if self.mode not in MODES:
            raise ConfigError(f"mode={self.mode!r} is unknown; choose {', '.join(MODES)}")

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if not (self.mixup or self.cutmix) or not self.probability:
            return images, targets
        return mix(images, targets, self.draw(images))

    def draw(self, images: Tensor) -> Tensor:
        """How much stays of every pixel, 0 to 1: (B, C, H, W) -> (1 or B, 1, H, W) float32."""
        count = {"batch": 1, "pair": -(-len(images) // 2), "elem": len(images)}[self.mode]
        frame, device = (images.shape[-2], images.shape[-1]), images.device
        cut = torch.rand(count, device=device) < self._share_of_cutmix()
        kept = torch.ones(count, 1, *frame, device=device)
        if self.mixup:
            kept = kept * random_share(self.mixup, count, device).view(-1, 1, 1, 1)
        if self.cutmix:
            box = random_box(random_share(self.cutmix, count, device), frame)
            outside = (~inside(box, frame)).float()
            kept = torch.where(cut.view(-1, 1, 1, 1), outside, kept)
        mixed = torch.rand(count, device=device) < self.probability
        kept = torch.where(mixed.view(-1, 1, 1, 1), kept, 1.0)
        if self.mode != "pair":
            return kept
        return torch.cat([kept, kept[: len(images) // 2].flip(0)])  # partners stand mirrored

    def _share_of_cutmix(self) -> float:
        if self.mixup and self.cutmix:
            return self.switch
        return 1.0 if self.cutmix else 0.0


def mix(images: Tensor, targets: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Replace what of each pixel is not kept by its partner's, and as much of the targets.

    `kept` is (1 or B, 1, H, W); so the area that CutMix's box really covers is what counts.
    """
    share = kept.mean((2, 3))  # (1 or B, 1)
    images = torch.lerp(images.flip(0), images, kept.to(images.dtype))
    return images, torch.lerp(targets.flip(0), targets, share.to(targets.dtype))


def random_share(alpha: float, count: int, device: torch.device) -> Tensor:
    """Draw from Beta(alpha, alpha): (B,) float32."""
    shape = torch.full((count,), float(alpha), device=device)
    return Beta(shape, shape).sample()


def random_box(share: Tensor, frame: tuple[int, int]) -> Tensor:
    """A box around a random pixel that leaves about a `share` of the frame, (B,): (B, 4)."""
    middles = [torch.randint(side, share.shape, device=share.device) for side in frame]
    return box_around(torch.stack(middles, dim=1), share, frame)


def box_around(middle: Tensor, share: Tensor, frame: tuple[int, int]) -> Tensor:
    """The box of the frame's proportions that leaves a `share` of it, cut off at the border.

    Around a pixel given by row and column, (B, 2), -> top, left, height and width, (B, 4).
    """
    size = torch.tensor(frame, device=share.device)
    length = (size * (1 - share)[:, None].sqrt()).long()
    start = (middle - length // 2).clamp(min=0)
    end = torch.minimum(middle + (length + 1) // 2, size)
    return torch.cat([start, end - start], dim=1)
