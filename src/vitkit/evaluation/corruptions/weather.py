"""Weather and light between the camera and the thing."""

import numpy as np
from numpy.typing import NDArray

from vitkit.evaluation.corruptions.planes import Planes, streak, zoom

GREY = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]  # luminance of red, green, blue


def fog(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Clouds laid over it: (thickness, decay of their detail)."""
    thickness, decay = level
    height, width = x.shape[1:]
    clouds = plasma(max(height, width), decay, random)[:height, :width]
    brightest = float(x.max())
    return (x + thickness * clouds) * np.float32(brightest / (brightest + thickness))


def plasma(side: int, decay: float, random: np.random.Generator) -> NDArray[np.float32]:
    """A height map in [0, 1] by the diamond-square algorithm, (n, n), n a power of 2 from `side`.

    Every level of detail has the last one's amplitude divided by `decay`. It wraps at its edges.
    """
    size = 1 << (side - 1).bit_length()
    heights = np.zeros((size, size))
    step, amplitude = size, 100.0 * 100.0
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        square = corners + np.roll(corners, -1, 0)
        square = square + np.roll(square, -1, 1)
        middles = heights[half::step, half::step]
        middles[:] = square / 4 + amplitude * random.uniform(-1, 1, square.shape)
        rows = middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1)
        heights[::step, half::step] = rows / 4 + amplitude * random.uniform(-1, 1, rows.shape)
        columns = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)
        heights[half::step, ::step] = columns / 4 + amplitude * random.uniform(-1, 1, rows.shape)
        step, amplitude = half, amplitude / decay
    lowest, highest = float(heights.min()), float(heights.max())
    return ((heights - lowest) / max(highest - lowest, 1e-12)).astype(np.float32)


def snow(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """Streaks of flakes over a paler image.

    (mean and standard deviation of flakes, their zoom, the least one seen, radius and sigma of the
    streaks, share of the image that is not paled).
    """
    mean, deviation, size, least, radius, sigma, clear = level
    flakes = random.normal(mean, deviation, (1, *x.shape[1:])).astype(np.float32)
    flakes = zoom(flakes, size)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1).astype(np.float32)
    fallen = streak(flakes, radius, sigma, random.uniform(-135, -45))
    grey = (x * GREY).sum(axis=0, keepdims=True)
    paled: Planes = clear * x + (1 - clear) * np.maximum(x, grey * 1.5 + 0.5)
    return paled + fallen + fallen[:, ::-1, ::-1]


def brightness(x: Planes, level: tuple[float, ...], random: np.random.Generator) -> Planes:
    """More of HSV's value: (how much,)."""
    value = x.max(axis=0, keepdims=True)
    raised = np.minimum(value + np.float32(level[0]), 1)
    lit: Planes = np.where(value > 0, x * (raised / np.maximum(value, 1e-6)), raised)
    return lit
