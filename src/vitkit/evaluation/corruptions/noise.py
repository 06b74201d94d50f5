"""Noise of sensors and transmission."""

import numpy as np

from vitkit.evaluation.corruptions.planes import Planes


def gaussian_noise(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Independent normal noise: (standard deviation,)."""
    return x + level[0] * random.standard_normal(x.shape, np.float32)


def shot_noise(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Poisson noise of few photons: (photons of a white pixel,)."""
    return (random.poisson(x * level[0]) / level[0]).astype(np.float32)


def impulse_noise(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Salt and pepper in every channel: (share of the values,)."""
    drawn = random.random(x.shape, np.float32)
    share = level[0]
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 1, x)).astype(np.float32)


def speckle_noise(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Normal noise in proportion to the value: (standard deviation at white,)."""
    return x + level[0] * x * random.standard_normal(x.shape, np.float32)
