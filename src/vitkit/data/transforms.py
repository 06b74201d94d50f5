"""From an RGB array to a model input: the one place where pixels are resized and normalised."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitkit.errors import ConfigError

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST = 8192  # pixels, both sides of the frame that an image is resized to cover
OBLONG = 32  # times as long as wide, after which the ends of an image are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Cover the model's input with the image, cut out the middle, normalise: timm's evaluation.

    With `crop_mode="squash"` the image is brought to the input's own proportions instead, as most
    of Hugging Face's processors do.

    Called on an RGB array, (H, W, 3) uint8, it gives the model input, (C, h, w) float32. One
    channel in `mean` means that colour is reduced to luminance first.

    Raises:
        ConfigError: a value outside its range.
    """

    image_size: tuple[int, int]  # pixels, height and width
    crop: float = 1.0  # share of the resized image that the middle keeps; timm's crop_pct
    crop_mode: Literal["center", "squash"] = "center"  # squash gives up the image's proportions
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: tuple[float, ...] = HALF  # per channel, of values in [0, 1]
    std: tuple[float, ...] = HALF

    def __post_init__(self) -> None:
        sides = self.image_size
        if len(sides) != 2 or not all(isinstance(n, Integral) and n >= 1 for n in sides):
            raise ConfigError(f"image_size={sides} is not (height, width) in whole pixels")
        if not isinstance(self.crop, Real) or not 0 < self.crop <= 1:
            raise ConfigError(f"crop={self.crop!r} is not in (0, 1]; 1.0 keeps the whole middle")
        if max(sides) > LARGEST or sides[0] / self.crop * (sides[1] / self.crop) > LARGEST**2:
            raise ConfigError(
                f"image_size={sides} with crop={self.crop} needs images of more than "
                f"{LARGEST} x {LARGEST} pixels; try smaller sides or a crop nearer to 1"
            )
        if self.crop_mode not in ("center", "squash"):
            raise ConfigError(f"crop_mode={self.crop_mode!r} is unknown; choose center or squash")
        if self.interpolation not in RESAMPLING:
            known = ", ".join(RESAMPLING)
            raise ConfigError(f"interpolation={self.interpolation!r} is unknown; choose {known}")
        self._check_statistics()

    def _check_statistics(self) -> None:
        mean, std = self.mean, self.std
        if not all(isinstance(n, Real) and abs(n) <= 1e6 for n in (*mean, *std)):  # nan neither
            raise ConfigError(f"mean={mean} and std={std} must be numbers between -1e6 and 1e6")
        if len(mean) not in (1, 3) or len(std) != len(mean) or min(std) < 1e-6:
            raise ConfigError(
                f"mean={mean} and std={std} must have 1 or 3 values each, std at least 1e-6"
            )

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return len(self.mean)

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        return self.normalise(torch.from_numpy(self.fit(image))[None])[0]

    def fit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop without normalising: (H, W, 3) -> (C, h, w), uint8."""
        squash = self.crop_mode == "squash"
        picture = Image.fromarray(image if squash else self._middle(image))
        if self.channels == 1:
            picture = picture.convert("L")
        size = self._frame() if squash else self._cover(picture.size)
        if picture.size != size:
            picture = picture.resize(size, RESAMPLING[self.interpolation])
        height, width = self.image_size
        left = round((picture.width - width) / 2)
        top = round((picture.height - height) / 2)
        pixels = np.asarray(picture.crop((left, top, left + width, top + height)))
        return pixels.reshape(height, width, -1).transpose(2, 0, 1).copy()  # Pillow's is read-only

    def normalise(self, batch: Tensor) -> Tensor:
        """To the range that the model was trained on: (B, C, h, w) uint8 -> float32.

        Pixels lie in memory channels last, in which convolutions are up to four times as fast.
        """
        shape = (1, self.channels, 1, 1)
        mean = torch.tensor(self.mean, device=batch.device).view(shape)
        std = torch.tensor(self.std, device=batch.device).view(shape)
        pixels = batch.to(torch.float32).div_(255).sub_(mean).div_(std)
        return pixels.contiguous(memory_format=torch.channels_last)  # arithmetic on it is slow

    def renormalise(self, batch: Tensor, before: "Preprocess") -> Tensor:
        """From the range of another model to that of this one: (B, C, h, w) -> the same."""
        shape = (1, self.channels, 1, 1)
        mean, std, old_mean, old_std = (
            torch.tensor(values, device=batch.device).view(shape)
            for values in (self.mean, self.std, before.mean, before.std)
        )
        return batch * (old_std / std) + (old_mean - mean) / std

    def _middle(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of an oblong image around what the crop shows: a line resized whole is vast."""
        most = OBLONG * min(image.shape[:2]) * max(self.image_size) // min(self.image_size)
        top, left = (max(side - most, 0) // 2 for side in image.shape[:2])
        return image[top : image.shape[0] - top, left : image.shape[1] - left]

    def _frame(self) -> tuple[int, int]:
        """Width and height of what the crop is cut out of."""
        height, width = (int(side / self.crop) for side in self.image_size)
        return width, height

    def _cover(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height, in the image's own proportions, that just cover the crop's frame."""
        width, height = size
        frame_width, frame_height = self._frame()
        if width * frame_height <= height * frame_width:
            return frame_width, max(int(frame_width * height / width), frame_height)
        return max(int(frame_height * width / height), frame_width), frame_height

    def to_timm(self) -> dict[str, Any]:
        """The keys of timm's `pretrained_cfg`."""
        return {
            "input_size": [self.channels, *self.image_size],
            "crop_pct": self.crop,
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_timm(cls, cfg: Mapping[str, Any]) -> "Preprocess":
        """The reverse of `to_timm`; what `cfg` does not say keeps timm's defaults.

        Raises:
            ConfigError: a value outside its range, or unknown.
        """
        channels, height, width = cfg["input_size"]
        mean, std = tuple(cfg.get("mean", IMAGENET_MEAN)), tuple(cfg.get("std", IMAGENET_STD))
        if not isinstance(channels, int) or len(mean) != channels:
            raise ConfigError(f"input_size={cfg['input_size']} and mean={mean} differ in channels")
        return cls(
            image_size=(height, width),
            crop=cfg.get("crop_pct", 0.875),
            crop_mode=cfg.get("crop_mode", "center"),
            interpolation=cfg.get("interpolation", "bicubic"),
            mean=mean,
            std=std,
        )
