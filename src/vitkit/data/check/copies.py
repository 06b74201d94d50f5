"""Images that are in a set more than once: which, in which splits, and under which labels."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from vitkit.data.check.near import TURNS, Pairs, near_pairs
from vitkit.data.layout import SPLITS
from vitkit.data.shards.write import encoded
from vitkit.data.sources import Sample, Source
from vitkit.progress import Listener, silent


@dataclass(frozen=True, slots=True)
class Exact:
    """Images with the same pixels, by their rows."""

    rows: tuple[int, ...]  # two or more, rising
    same_file: bool  # byte for byte


@dataclass(frozen=True, slots=True)
class Copy:
    """An image and another that shows the same."""

    row: int
    other: int
    alike: float  # correlation of hashes; 1 of exact copies
    how: str  # "same file", "same pixels", or how a near copy lies: one of near.TURNS

    @property
    def exact(self) -> bool:
        """Whether all pixels agree."""
        return self.how.startswith("same ")


def find_exact(source: Source, keys: Sequence[bytes | None]) -> tuple[Exact, ...]:
    """Groups of images with the same content; None is of no group. Their files are read again."""
    groups: dict[bytes, list[int]] = {}
    for row, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(row)
    several = [rows for rows in groups.values() if len(rows) > 1]
    return tuple(Exact(tuple(rows), _same_file(source, rows)) for rows in several)


def _same_file(source: Source, rows: Sequence[int]) -> bool:
    return len({blake2b(encoded(source.read, row)).digest() for row in rows}) == 1


def find_near(
    keys: Sequence[bytes | None],
    thumbs: NDArray[np.uint8],
    shorter: NDArray[np.int64],
    *,
    listen: Listener = silent,
) -> Pairs:
    """Pairs of images that are nearly the same; of exact copies only the first is in any."""
    seen: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        if key is not None:
            seen.setdefault(key, row)
    rows = np.fromiter(seen.values(), np.int64, len(seen))
    pairs = near_pairs(thumbs[rows], shorter[rows], listen=listen)
    return Pairs(rows[pairs.first], rows[pairs.second], pairs.alike, pairs.turn)


def all_copies(exact: Sequence[Exact], near: Pairs) -> Iterator[Copy]:
    """Every image with every copy of it, both ways round: exact ones, then the most alike first.

    An exact copy of an image is a near copy of all that the image is a near copy of.
    """
    members = {group.rows[0]: group.rows for group in exact}
    for group in exact:
        how = "same file" if group.same_file else "same pixels"
        yield from (Copy(a, b, 1.0, how) for a in group.rows for b in group.rows if a != b)
    for first, second, alike, turn in zip(*_columns(near), strict=True):
        for a in members.get(first, (first,)):
            for b in members.get(second, (second,)):
                yield Copy(a, b, alike, TURNS[turn])
                yield Copy(b, a, alike, TURNS[turn])


def _columns(near: Pairs) -> tuple[list[int], list[int], list[float], list[int]]:
    return near.first.tolist(), near.second.tolist(), near.alike.tolist(), near.turn.tolist()


def find_leaks(samples: Sequence[Sample], exact: Sequence[Exact], near: Pairs) -> tuple[Copy, ...]:
    """Images of val and test with a copy that is trained on, and of test with one in val.

    Each comes once, with its nearest copy. A sample without a split is one to train on.
    """
    places = [SPLITS.index(sample.split or "train") for sample in samples]
    if not any(places):
        return ()
    return _first_of_each(
        copy for copy in all_copies(exact, near) if places[copy.other] < places[copy.row]
    )


def find_conflicts(
    samples: Sequence[Sample], exact: Sequence[Exact], near: Pairs
) -> tuple[Copy, ...]:
    """Images with a copy under another label, each pair once, the nearest first."""
    labels = [sample.label for sample in samples]
    return tuple(
        copy
        for copy in all_copies(exact, near)
        if copy.row < copy.other and labels[copy.row] != labels[copy.other]
    )


def _first_of_each(copies: Iterator[Copy]) -> tuple[Copy, ...]:
    first: dict[int, Copy] = {}
    for copy in copies:
        first.setdefault(copy.row, copy)
    return tuple(first.values())


def groups_of(count: int, exact: Sequence[Exact], near: Pairs) -> list[Hashable]:
    """A number for each of `count` images that it shares with all of its copies, and theirs."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for group in exact:
        for row in group.rows[1:]:
            parent[root(row)] = root(group.rows[0])
    for first, second in zip(near.first.tolist(), near.second.tolist(), strict=True):
        parent[root(second)] = root(first)
    return [root(row) for row in range(count)]
