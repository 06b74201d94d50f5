"""Images that are nearly the same: saved again, resized, mirrored or turned.

Two looks. The first compares the strengths of low frequencies, the absolute values of a cosine
transform, which mirroring and turning leave as they are. The distance of two such fingerprints is
never more than that of the thumbnails in their best position, so that the first look loses nothing.
It costs n^2/2 products of 65 numbers in blocks: 15 s for 100,000 images on one core. The second
look compares the thumbnails of the pairs that are left, in the position that fits best.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitkit.progress import Listener, Progress, silent

Floats = NDArray[np.float32]

KEPT = 8  # frequencies of each direction in a fingerprint
FLAT = 2.0  # levels of standard deviation of a thumbnail, below which noise decides: not compared
# Share of a thumbnail's variance that two copies may differ in, 1 - correlation. A copy of a small
# image differs more, since the grid of its pixels does not fit the thumbnail's: of CIFAR-10 (32
# pixels) and flowers (128), 95 % of the copies at 0.7 times the size, mirrored and saved as JPEG of
# quality 60, were within 0.043 and 0.002.
STRICT, LOOSE = 0.015, 0.05
LOOSE_SIDE = 32  # pixels of the shorter side, up to which it is LOOSE; STRICT comes at 107
CROWDED = 5  # the neighbour that tells how alike different images of a set are
SAMPLED = 128  # images that are asked for theirs
BLOCK = (512, 4096)  # fingerprints that are compared at once
CHUNK = 1 << 15  # pairs of the second look at once
TURNS = (  # of the second image, to look like the first
    "as it is",
    "mirrored",
    "upside down",
    "turned by 180°",
    "mirrored and turned",
    "turned by 90°",
    "turned by 90°",
    "mirrored and turned",
)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of rows that show nearly the same, the most alike first."""

    first: NDArray[np.int64]  # (m,)
    second: NDArray[np.int64]  # (m,), above `first`
    alike: NDArray[np.float64]  # (m,) correlation of the thumbnails, at most 1
    turn: NDArray[np.int64]  # (m,) index into TURNS


class _Found(NamedTuple):
    """Part of the pairs."""

    places: NDArray[np.int64]  # (m, 3): first, second and turn
    alike: NDArray[np.float64]  # (m,)


def near_pairs(
    thumbs: NDArray[np.uint8], shorter: NDArray[np.int64], *, listen: Listener = silent
) -> Pairs:
    """All pairs of thumbnails (n, S, S) that are copies; `shorter` (n,) are the images' sides.

    Flat images are in no pair. Where different images of the set are much alike, as digits are, the
    limit for small ones is lowered to half of what parts one image in twenty from its fifth
    neighbour, but not below STRICT.
    """
    units, deviation = _units(thumbs)
    limits = np.clip(LOOSE * LOOSE_SIDE / shorter, STRICT, LOOSE)
    rows = np.flatnonzero(deviation >= FLAT)
    units, limits = units[rows], limits[rows]
    limits = np.minimum(limits, max(_crowding(units, limits) / 2, STRICT))
    spectrum = _spectrum(units)
    found = [
        _second_look(units, spectrum, limits, first[at : at + CHUNK], second[at : at + CHUNK])
        for first, second in _first_look(spectrum, limits, listen)
        for at in range(0, len(first), CHUNK)
    ]
    pairs = [_Found(np.zeros((0, 3), np.int64), np.zeros(0)), *found]
    places = np.concatenate([some.places for some in pairs])
    alike = np.concatenate([some.alike for some in pairs])
    order = np.lexsort((places[:, 1], places[:, 0], -alike))
    first, second, turn = places[order].T
    return Pairs(rows[first], rows[second], alike[order], turn)


def _units(thumbs: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.float64]]:
    """Thumbnails of mean 0 and length 1, (n, S, S), and their standard deviations, (n,)."""
    x = thumbs.astype(np.float32)
    x -= x.mean(axis=(1, 2), keepdims=True)
    deviation = np.sqrt(np.square(x).mean(axis=(1, 2), dtype=np.float64))
    x /= np.maximum(deviation * thumbs.shape[1], 1e-6)[:, None, None].astype(np.float32)
    return x, deviation


def _spectrum(units: Floats) -> Floats:
    """The lowest KEPT x KEPT frequencies of the orthonormal cosine transform: (n, KEPT^2)."""
    side = units.shape[1]
    place, frequency = np.arange(side), np.arange(KEPT)[:, None]
    basis = np.cos(np.pi * (2 * place + 1) * frequency / (2 * side)) * np.sqrt(2 / side)
    basis[0] /= np.sqrt(2)
    waves = basis.astype(np.float32)
    spectrum: Floats = waves @ units @ waves.T
    return spectrum.reshape(len(units), KEPT**2)


def _fingerprints(spectrum: Floats) -> tuple[Floats, Floats]:
    """What does not change when an image is mirrored or turned, as factors of a distance.

    For rows a of the first and b of the second, a @ b is minus half of the squared distance.
    """
    strength = np.abs(spectrum).reshape(-1, KEPT, KEPT)
    turned = strength.transpose(0, 2, 1)
    above, below = np.triu_indices(KEPT), np.triu_indices(KEPT, 1)
    larger, smaller = np.maximum(strength, turned), np.minimum(strength, turned)
    marks = np.concatenate([larger[:, *above], smaller[:, *below]], axis=1)  # (n, KEPT^2)
    half = np.square(marks).sum(axis=1, keepdims=True) / 2
    ones = np.ones_like(half)
    return np.hstack([marks, -half, ones]), np.hstack([marks, ones, -half])


def _first_look(
    spectrum: Floats, limits: NDArray[np.float64], listen: Listener
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs whose fingerprints do not rule them out, first < second."""
    left, right = _fingerprints(spectrum)
    count = len(left)
    loosest = np.float32(-limits.max(initial=STRICT) - 1e-5)  # what rounding may cost
    height, width = BLOCK
    for top in range(0, count, height):
        for at in range(top, count, width):
            close = left[top : top + height] @ right[at : at + width].T >= loosest
            rows, columns = np.nonzero(close)
            keep = rows + top < columns + at
            if keep.any():
                yield rows[keep] + top, columns[keep] + at
        listen(Progress("compare", min(top + height, count), count))


def _second_look(
    units: Floats,
    spectrum: Floats,
    limits: NDArray[np.float64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> _Found:
    """Those of the pairs whose thumbnails agree, how well, and in which position."""
    limit = np.maximum(limits[first], limits[second])
    overlaps = np.stack([_overlap(spectrum, first, second, turn) for turn in range(len(TURNS))])
    turn = overlaps.argmax(axis=0)
    energy = np.square(spectrum).sum(axis=1)
    apart = (energy[first] + energy[second]) / 2 - overlaps.max(axis=0)
    left = np.flatnonzero(apart <= limit + 1e-5)
    first, second, turn, limit = first[left], second[left], turn[left], limit[left]
    alike = np.zeros(len(first))
    for number in range(len(TURNS)):
        chosen = turn == number
        ours, theirs = units[first[chosen]], turned(units[second[chosen]], number)
        alike[chosen] = np.einsum("nhw,nhw->n", ours, theirs, dtype=np.float64)
    same = 1 - alike <= limit
    places = np.stack([first[same], second[same], turn[same]], axis=1)
    return _Found(places, np.minimum(alike[same], 1.0))


def _overlap(
    spectrum: Floats, first: NDArray[np.int64], second: NDArray[np.int64], turn: int
) -> Floats:
    """Scalar products of spectra, of the second image in one of the TURNS: (m,)."""
    order = np.arange(KEPT**2).reshape(KEPT, KEPT)
    signs = np.ones((KEPT, KEPT), np.float32)
    if turn & 1:  # mirroring changes the sign of odd waves
        signs[:, 1::2] *= -1
    if turn & 2:
        signs[1::2] *= -1
    order = order.T if turn & 4 else order
    theirs = spectrum[second][:, order.ravel()]
    theirs *= signs.ravel()
    overlap: Floats = np.einsum("nk,nk->n", spectrum[first], theirs)
    return overlap


def turned(images: Floats, turn: int) -> Floats:
    """Images (n, S, S) in one of the TURNS."""
    x = images.transpose(0, 2, 1) if turn & 4 else images
    x = x[:, :, ::-1] if turn & 1 else x
    return x[:, ::-1] if turn & 2 else x


def _crowding(units: Floats, limits: NDArray[np.float64]) -> float:
    """1 - correlation with the fifth neighbour, such that it is less for one image in twenty.

    Infinite where the limits are strict anyway, or the set is too small to tell.
    """
    count = len(units)
    if count < 10 * CROWDED or limits.max() <= STRICT:
        return float("inf")
    sample = np.random.default_rng(0).choice(count, min(SAMPLED, count), replace=False)
    flat = units.reshape(count, -1)
    nearest = np.full((len(sample), count), -1, np.float32)
    for turn in range(len(TURNS)):
        positions = turned(units[sample], turn).reshape(len(sample), -1)
        np.maximum(nearest, positions @ flat.T, out=nearest)
    nearest[np.arange(len(sample)), sample] = -1
    fifth = 1 - np.partition(nearest, -CROWDED, axis=1)[:, -CROWDED]
    return float(np.percentile(fifth, 5))
