"""What is wrong with a data set before anything is trained on it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from vitkit.data.sources import Source
from vitkit.errors import DataError

LISTED = 20  # files that an error names before it counts the rest


@dataclass(frozen=True)
class DataSummary:
    """What a labelled source holds, split by split, and what to know before trusting it."""

    source: str
    classes: tuple[str, ...]
    counts: dict[str, list[int]]  # readable images by split, then class
    unreadable: tuple[tuple[str, str], ...]  # (name, reason)
    duplicates: int  # readable images whose content came earlier
    leaks: int  # images of val and test whose content is in train
    conflicts: int  # readable images whose content has another label elsewhere
    skipped: tuple[str, ...]  # files outside the class folders

    @property
    def images(self) -> int:
        """Readable images."""
        return sum(map(sum, self.counts.values()))

    @property
    def imbalance(self) -> float:
        """Readable images of the largest class over those of the smallest; inf if that has none."""
        sizes = [sum(sizes) for sizes in zip(*self.counts.values(), strict=True)]
        return max(sizes) / min(sizes) if sizes and min(sizes) else float("inf")


def content_key(image: NDArray[np.uint8]) -> bytes:
    """128 bits that two images share if and only if, for all practice, shape and pixels agree."""
    key = blake2b(repr((image.shape, image.dtype.str)).encode(), digest_size=16)
    key.update(np.ascontiguousarray(image).data)
    return key.digest()


def summarise(
    source: Source,
    splits: Sequence[str],
    keys: Sequence[Hashable | None],
    unreadable: Sequence[tuple[str, str]] = (),
) -> DataSummary:
    """Count a source; `splits` and `keys` (None: unreadable) have one entry for every sample."""
    counts: dict[str, list[int]] = {}
    labels: dict[Hashable, set[int | None]] = {}
    readable = [
        (sample.label, split, key)
        for sample, split, key in zip(source.samples, splits, keys, strict=True)
        if key is not None
    ]
    for label, split, key in readable:
        row = counts.setdefault(split, [0] * len(source.classes))
        if label is not None:
            row[label] += 1
        labels.setdefault(key, set()).add(label)
    trained = {key for _, split, key in readable if split == "train"}
    return DataSummary(
        source=source.name,
        classes=source.classes,
        counts=counts,
        unreadable=tuple(unreadable),
        duplicates=len(readable) - len(labels),
        leaks=sum(split != "train" and key in trained for _, split, key in readable),
        conflicts=sum(len(labels[key]) > 1 for _, _, key in readable),
        skipped=source.skipped,
    )


def check_unreadable(
    unreadable: Sequence[tuple[str, str]], total: int, *, limit: float = 0.01
) -> None:
    """Accept a few unreadable files among `total`.

    Raises:
        DataError: their share is over `limit`; the message names the first 20 and why.
    """
    if len(unreadable) <= limit * total:
        return
    listed = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:LISTED])
    more = f"; and {len(unreadable) - LISTED} more" if len(unreadable) > LISTED else ""
    raise DataError(
        f"{len(unreadable)} of {total} images cannot be read, more than {limit:.0%}; "
        f"replace or remove them: {listed}{more}"
    )
