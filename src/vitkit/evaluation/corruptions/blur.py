"""Blur of lenses and motion."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vitkit.evaluation.corruptions.planes import Planes, convolve, smooth, streak, zoom


def gaussian_blur(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """(sigma in pixels,)."""
    return smooth(x, level[0])


def defocus_blur(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """A disk: (radius in pixels, sigma that softens its edge)."""
    return convolve(x, disk(*level))


@lru_cache(maxsize=16)
def disk(radius: float, softness: float) -> NDArray[np.float32]:
    """A soft disk that sums to 1, (k, k) with k odd."""
    reach = 1 if radius <= 8 else 2  # of what softens it
    side = np.arange(-int(radius) - reach, int(radius) + reach + 1)
    hard = (side[:, None] ** 2 + side**2 <= radius**2).astype(np.float64)
    offsets = np.arange(-reach, reach + 1)
    soft = np.exp(-0.5 * (offsets / softness) ** 2)
    soft /= soft.sum()
    for axis in (0, 1):
        shifted = [w * np.roll(hard, o, axis) for o, w in zip(offsets, soft, strict=True)]
        hard = np.sum(shifted, axis=0)
    return hard.astype(np.float32) / np.float32(hard.sum())


def glass_blur(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Pixels taken from near by between two blurs: (sigma, farthest in pixels, rounds).

    As in the released code, which means to swap pixels, a pixel becomes a copy of its neighbour.
    That code goes pixel by pixel; here those go at once that lie too far apart to meet.
    """
    sigma, farthest, rounds = level[0], round(level[1]), round(level[2])
    planes = smooth(x, sigma)
    height, width = planes.shape[1:]
    apart = 2 * farthest
    for _ in range(rounds):
        for top in range(apart):
            for left in range(apart):
                rows = np.arange(height - farthest - top, farthest, -apart)[:, None]
                columns = np.arange(width - farthest - left, farthest, -apart)
                shape = (2, len(rows), len(columns))
                down, across = random.integers(-farthest, farthest, size=shape)
                planes[:, rows, columns] = planes[:, rows + down, columns + across]
    return smooth(planes, sigma)


def motion_blur(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Along a line near the horizontal: (radius, sigma), in pixels."""
    return streak(x, level[0], level[1], random.uniform(-45, 45))


def zoom_blur(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """The mean of zoomed copies and the image: (end of the factors from 1, their step)."""
    factors = np.arange(1, level[0], level[1])
    total = sum((zoom(x, float(factor)) for factor in factors), start=x)
    return total / np.float32(len(factors) + 1)
