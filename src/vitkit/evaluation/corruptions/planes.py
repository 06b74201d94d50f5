"""Filters that several corruptions share, on the planes of an image: (C, h, w) float32."""

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.floating[Any]]  # (C, h, w) in [0, 1], float32
Edge = Literal["nearest", "reflect"]  # what lies beyond the edge: its pixel, or all mirrored


def smooth(
    planes: Planes, sigma: float, *, truncate: float = 4.0, edge: Edge = "nearest"
) -> Planes:
    """A Gaussian blur of `sigma` pixels, cut off at `truncate` sigmas: (C, h, w) -> the same."""
    down, across = (smoothing(n, sigma, truncate, edge) for n in planes.shape[1:])
    return down @ planes @ across.T


@lru_cache(maxsize=64)
def smoothing(n: int, sigma: float, truncate: float, edge: Edge) -> NDArray[np.float32]:
    """The blur of a line of n pixels as a matrix, (n, n)."""
    reach = int(truncate * sigma + 0.5)
    if not reach:
        return np.eye(n, dtype=np.float32)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    places = np.arange(n)[:, None] + offsets
    places = np.clip(places, 0, n - 1) if edge == "nearest" else mirrored(places, n)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n)[:, None], places), weights / weights.sum())
    return matrix.astype(np.float32)


def mirrored(places: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Whole places anywhere on a line of n pixels that is mirrored at its edges: in [0, n)."""
    folded = places % (2 * n)
    return np.minimum(folded, 2 * n - 1 - folded)


def zoom(planes: Planes, factor: float) -> Planes:
    """The middle enlarged bilinearly by a factor of at least 1: (C, h, w) -> the same."""
    down, across = (zooming(n, factor) for n in planes.shape[1:])
    return down @ planes @ across.T


@lru_cache(maxsize=256)
def zooming(n: int, factor: float) -> NDArray[np.float32]:
    """The zoom of a line of n pixels as a matrix, (n, n)."""
    kept = int(np.ceil(n / factor))
    first = (n - kept) // 2
    length = round(kept * factor)
    at = np.linspace(0, kept - 1, length)[(length - n) // 2 :][:n]
    low = np.minimum(np.floor(at).astype(int), kept - 1)
    high = np.minimum(low + 1, kept - 1)
    rows = np.arange(n)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (rows, first + low), 1 - (at - low))
    np.add.at(matrix, (rows, first + high), at - low)
    return matrix.astype(np.float32)


def convolve(planes: Planes, kernel: NDArray[np.float32]) -> Planes:
    """Every plane with one odd, symmetric kernel (k, k); edges are mirrored about their pixels."""
    reach = len(kernel) // 2
    padded = np.pad(planes, ((0, 0), (reach, reach), (reach, reach)), "reflect")
    size = padded.shape[1:]
    spectrum = np.fft.rfft2(padded) * np.fft.rfft2(kernel, size)
    whole = np.fft.irfft2(spectrum, size)[:, 2 * reach :, 2 * reach :]
    return whole.astype(np.float32)


def streak(planes: Planes, radius: float, sigma: float, angle: float) -> Planes:
    """ImageMagick's motion blur: one-sided and Gaussian, at an angle in degrees; edges go on."""
    width = 2 * round(radius) + 1
    weights = np.exp(-0.5 * (np.arange(width) / sigma) ** 2)
    weights /= weights.sum()
    turn = np.deg2rad(angle)
    height, length = planes.shape[1:]
    padded = np.pad(planes, ((0, 0), (width, width), (width, width)), "edge")
    blurred = np.zeros_like(planes)
    for step, weight in enumerate(weights.tolist()):
        top = width - int(np.ceil(step * np.sin(turn) - 0.5))
        left = width - int(np.ceil(step * np.cos(turn) - 0.5))
        blurred += weight * padded[:, top : top + height, left : left + length]
    return blurred


def sample(planes: Planes, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Planes:
    """The image at places between pixels, bilinear, mirrored at the edges: (C, h, w) -> same."""
    height, width = planes.shape[1:]
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    down, across = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    above, below = mirrored(top, height), mirrored(top + 1, height)
    before, after = mirrored(left, width), mirrored(left + 1, width)
    upper = planes[:, above, before] * (1 - across) + planes[:, above, after] * across
    lower = planes[:, below, before] * (1 - across) + planes[:, below, after] * across
    return upper * (1 - down) + lower * down
