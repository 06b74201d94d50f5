"""Images that are nearly the same: saved again, resized, mirrored or turned.

Two looks at a perceptual hash, the low frequencies of a thumbnail's cosine transform. The first
compares their strengths, the absolute values, which mirroring and turning leave as they are; the
distance of two such fingerprints is never more than that of the images in their best position, so
that the first look loses nothing. It costs n^2/2 products of 65 numbers in blocks: 15 s for 100,000
images on one core. The second finds that position for the pairs that are left, and compares there
the whole and the finer half alone: scenes of sky and sea share the coarse half.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitkit.progress import Listener, Progress, silent

Floats = NDArray[np.float32]

KEPT = 8  # frequencies of each direction in a hash
FINE = 3  # sum of both directions' frequencies, from which on they are fine
FLAT = 2.0  # levels of standard deviation of a thumbnail, below which noise decides: not compared
# 1 - correlation of two copies, at most, and twice that for what is fine: LOOSE for a shorter side
# up to LOOSE_SIDE pixels, then falling as it grows, STRICT from 107 on. Of CIFAR-10's images (32
# pixels) and flowers (128), 98 % of the copies at 0.7 times the size, mirrored and saved as JPEG of
# quality 60, were within 0.021 and 0.002 for the whole, and within 0.031 and 0.002 for the fine.
# Different flowers, round on black, come as near as 0.023.
LOOSE, LOOSE_SIDE, STRICT = 0.05, 32, 0.015
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
    alike: NDArray[np.float64]  # (m,) correlation of their hashes, at most 1
    turn: NDArray[np.int64]  # (m,) index into TURNS


class _Found(NamedTuple):
    """Part of the pairs."""

    places: NDArray[np.int64]  # (m, 3): first, second and turn
    alike: NDArray[np.float64]  # (m,)


def near_pairs(
    thumbs: NDArray[np.uint8], shorter: NDArray[np.int64], *, listen: Listener = silent
) -> Pairs:
    """All pairs of grey thumbnails, (n, S, S) with S of at least 8, whose images are copies.

    `shorter` (n,) are the shorter sides of the images: of two the smaller one decides. Flat images
    are in no pair. Where different images of the set are much alike, as digits are, no limit is
    above half of what parts one image in twenty from its fifth neighbour, but for STRICT.
    """
    hashes, deviation = perceptual_hash(thumbs)
    rows = np.flatnonzero(deviation >= FLAT)
    hashes = hashes[rows]
    crowded = max(_crowding(hashes) / 2, STRICT)
    limits = np.clip(LOOSE * LOOSE_SIDE / shorter[rows], STRICT, min(LOOSE, crowded))
    pairs = [_Found(np.zeros((0, 3), np.int64), np.zeros(0))]
    for first, second in _first_look(hashes, limits.max(initial=STRICT), listen):
        for at in range(0, len(first), CHUNK):
            part = slice(at, at + CHUNK)
            pairs.append(_second_look(hashes, limits, first[part], second[part]))
    places = np.concatenate([some.places for some in pairs])
    alike = np.concatenate([some.alike for some in pairs])
    order = np.lexsort((places[:, 1], places[:, 0], -alike))
    first, second, turn = places[order].T
    return Pairs(rows[first], rows[second], alike[order], turn)


def perceptual_hash(thumbs: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.float64]]:
    """Low frequencies without the mean, scaled to length 1: (n, S, S) -> (n, KEPT^2), a row of 0
    for an even image; and the thumbnails' standard deviations, (n,).

    The transform is the orthonormal DCT-II; row-major, the vertical frequency first.
    """
    side = thumbs.shape[1]
    place, frequency = np.arange(side), np.arange(KEPT)[:, None]
    waves = np.cos(np.pi * (2 * place + 1) * frequency / (2 * side)).astype(np.float32)
    waves *= np.where(frequency == 0, np.sqrt(1 / side), np.sqrt(2 / side)).astype(np.float32)
    spectrum = (waves @ thumbs.astype(np.float32) @ waves.T).reshape(len(thumbs), KEPT**2)
    spectrum[:, 0] = 0
    length = np.linalg.norm(spectrum, axis=1, keepdims=True)
    deviation = thumbs.std(axis=(1, 2), dtype=np.float64)
    return spectrum / np.where(length > 1e-3, length, np.inf), deviation


def turned(hashes: Floats, turn: int) -> Floats:
    """The hashes, (n, KEPT^2), of the same images in one of the TURNS."""
    order = np.arange(KEPT**2).reshape(KEPT, KEPT)
    signs = np.ones((KEPT, KEPT), np.float32)
    if turn & 1:  # mirroring changes the sign of odd waves
        signs[:, 1::2] *= -1
    if turn & 2:
        signs[1::2] *= -1
    return hashes[:, (order.T if turn & 4 else order).ravel()] * signs.ravel()


def _fingerprints(hashes: Floats) -> tuple[Floats, Floats]:
    """What does not change when an image is mirrored or turned, as factors of a distance.

    For rows a of the first and b of the second, a @ b is minus half of the squared distance.
    """
    strength = np.abs(hashes).reshape(-1, KEPT, KEPT)
    other = strength.transpose(0, 2, 1)
    above, below = np.triu_indices(KEPT), np.triu_indices(KEPT, 1)
    larger, smaller = np.maximum(strength, other), np.minimum(strength, other)
    marks = np.concatenate([larger[:, *above], smaller[:, *below]], axis=1)  # (n, KEPT^2)
    half = np.square(marks).sum(axis=1, keepdims=True) / 2
    ones = np.ones_like(half)
    return np.hstack([marks, -half, ones]), np.hstack([marks, ones, -half])


def _first_look(
    hashes: Floats, limit: float, listen: Listener
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs whose fingerprints do not rule them out, first < second."""
    left, right = _fingerprints(hashes)
    count, (height, width) = len(left), BLOCK
    least = np.float32(-limit - 1e-5)  # what rounding may cost
    for top in range(0, count, height):
        for at in range(top, count, width):
            close = left[top : top + height] @ right[at : at + width].T >= least
            rows, columns = np.nonzero(close)
            rows, columns = rows + top, columns + at
            keep = rows < columns
            yield rows[keep], columns[keep]
        listen(Progress("compare", min(top + height, count), count))


def _second_look(
    hashes: Floats,
    limits: NDArray[np.float64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> _Found:
    """Those of the pairs that agree in their best position, how well, and in which."""
    ours, theirs = hashes[first], hashes[second]
    limit = np.maximum(limits[first], limits[second])
    agreement = [np.einsum("nk,nk->n", ours, turned(theirs, turn)) for turn in range(len(TURNS))]
    turn = np.argmax(agreement, axis=0)
    alike = np.max(agreement, axis=0)
    fine = np.add.outer(np.arange(KEPT), np.arange(KEPT)).ravel() >= FINE
    same = 1 - alike <= limit
    for number in range(len(TURNS)):
        rows = np.flatnonzero(same & (turn == number))
        a, b = ours[rows][:, fine], turned(theirs[rows], number)[:, fine]
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        same[rows] = np.einsum("nk,nk->n", a, b) >= (1 - 2 * limit[rows]) * lengths
    places = np.stack([first[same], second[same], turn[same]], axis=1)
    return _Found(places, np.minimum(alike[same].astype(np.float64), 1.0))


def _crowding(hashes: Floats) -> float:
    """1 - correlation with the fifth neighbour, such that it is less for one image in twenty.

    Infinite where the set is too small to tell.
    """
    count = len(hashes)
    if count < 10 * CROWDED:
        return float("inf")
    sample = np.random.default_rng(0).choice(count, min(SAMPLED, count), replace=False)
    nearest = np.full((len(sample), count), -1, np.float32)
    for turn in range(len(TURNS)):
        np.maximum(nearest, turned(hashes[sample], turn) @ hashes.T, out=nearest)
    nearest[np.arange(len(sample)), sample] = -1
    fifth = 1 - np.partition(nearest, -CROWDED, axis=1)[:, -CROWDED]
    return float(np.percentile(fifth, 5))
