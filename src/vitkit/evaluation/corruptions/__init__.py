"""The common corruptions of ImageNet-C and CIFAR-10-C (Hendrycks and Dietterich, arXiv:1903.12261).

Seventeen of the nineteen kinds, with the parameters of the released code (`levels`): frost is made
with photographs that are not ours to ship, and spatter with edge detectors that no dependency has.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vitkit.errors import ConfigError, nearest
from vitkit.evaluation.corruptions import blur, digital, noise, weather
from vitkit.evaluation.corruptions.levels import SEVERITIES, levels
from vitkit.evaluation.corruptions.planes import Planes

Corruption = Callable[[Planes, tuple[float, ...], np.random.Generator], Planes]

NOISE: dict[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "speckle_noise": noise.speckle_noise,
}
BLUR: dict[str, Corruption] = {
    "gaussian_blur": blur.gaussian_blur,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
}
WEATHER: dict[str, Corruption] = {
    "fog": weather.fog,
    "snow": weather.snow,
    "brightness": weather.brightness,
}
DIGITAL: dict[str, Corruption] = {
    "contrast": digital.contrast,
    "saturate": digital.saturate,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
GROUPS = {"noise": NOISE, "blur": BLUR, "weather": WEATHER, "digital": DIGITAL}
KINDS: dict[str, Corruption] = NOISE | BLUR | WEATHER | DIGITAL

__all__ = ["GROUPS", "KINDS", "SEVERITIES", "corrupt"]


def corrupt(
    image: NDArray[np.uint8], kind: str, severity: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """An RGB image (3, h, w) as it would be under a corruption of severity 1 to 5: -> the same.

    What a severity means depends on the smaller side, in pixels (`levels`). Values are rounded,
    where the released code cuts them off.

    Raises:
        ConfigError: an unknown kind or severity.
    """
    if kind not in KINDS:
        raise ConfigError(f"corruption {kind!r} is unknown{nearest(kind, KINDS)}")
    if severity not in SEVERITIES:
        raise ConfigError(f"severity={severity} is not one of 1 to 5; 5 is the worst")
    planes = image.astype(np.float32) / 255
    damaged = KINDS[kind](planes, levels(kind, severity, min(image.shape[1:])), random)
    return np.rint(np.clip(damaged, 0, 1) * 255).astype(np.uint8)
