"""What is wrong with a data set before anything is trained on it, and what changed in it since."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitkit.data.manifest import csv_lines, save_csv
from vitkit.data.sources import Source
from vitkit.errors import DataError, nearest

CONTENT_COLUMNS = ("file_name", "content")
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
    compared: bool = True  # whether contents were, so that duplicates, leaks, conflicts are known

    @property
    def images(self) -> int:
        """Readable images."""
        return sum(map(sum, self.counts.values()))

    @property
    def imbalance(self) -> float:
        """Readable images of the largest class over those of the smallest; inf if that has none."""
        sizes = [sum(sizes) for sizes in zip(*self.counts.values(), strict=True)]
        return max(sizes) / min(sizes) if sizes and min(sizes) else float("inf")


def check_classes(source: Source) -> None:
    """Check that a labelled source has something to learn.

    Raises:
        DataError: there is one class only, or one of `val` or `test` that `train` does not have.
    """
    if len(source.classes) < 2:
        raise DataError(
            f"{source.name} has one class only, {source.classes[0]!r}; "
            "a classifier needs at least two to learn, each in a folder of its own"
        )
    pairs = {(source.classes[s.label or 0], s.split or "train") for s in source.samples}
    known = {label for label, split in pairs if split == "train"}
    for label, split in sorted(pairs):
        if known and label not in known:
            raise DataError(
                f"{source.name}: class {label!r} is in {split} but not in train"
                f"{nearest(label, known) or '; add images of it to train or remove it'}"
            )


def check_counts(source: Source) -> None:
    """Check that some images can be kept from training, to score a model on.

    Raises:
        DataError: the source has no splits, and one image of every class.
    """
    whole = source.samples and not any(sample.split for sample in source.samples)
    if whole and len(source.samples) == len({sample.label for sample in source.samples}):
        raise DataError(
            f"{source.name} has one image of each class, so none is left to score the model on; "
            "add images, or set data.val_fraction=0 data.test_fraction=0"
        )


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


def save_contents(path: Path, names: Iterable[str], keys: Iterable[bytes | None]) -> None:
    """Write each sample's content key as csv, in hexadecimal; empty where it was unreadable."""
    save_csv(path, CONTENT_COLUMNS, zip(names, map(_hexadecimal, keys), strict=True))


def load_contents(path: Path) -> dict[str, str]:
    """What `save_contents` wrote: content by name.

    Raises:
        DataError: it is absent or damaged, or has a name twice.
    """
    contents: dict[str, str] = {}
    for number, fields in csv_lines(path, required=CONTENT_COLUMNS, errors="surrogateescape"):
        name = fields["file_name"]
        if name in contents:
            raise DataError(f"{path}, line {number}: {name!r} is there twice; keep one line")
        contents[name] = fields["content"]
    return contents


def check_contents(path: Path, names: Iterable[str], keys: Iterable[bytes | None]) -> None:
    """Compare the samples with those that `save_contents` wrote to `path`.

    Raises:
        DataError: one was added or removed, changed, or became readable or unreadable; the message
            names the first. Or as `load_contents`.
    """
    saved = load_contents(path)
    for name, now in zip(names, map(_hexadecimal, keys), strict=True):
        if (before := saved.pop(name, None)) == now:
            continue
        if before is None:
            raise _changed(name, "is new; remove it")
        if not now:
            raise _changed(name, "is no longer readable; restore it")
        raise _changed(name, f"{'has other pixels' if before else 'is readable now'}; restore it")
    if saved:
        raise _changed(next(iter(saved)), "is gone; restore it")


def _hexadecimal(key: bytes | None) -> str:
    return "" if key is None else key.hex()


def _changed(name: str, how: str) -> DataError:
    return DataError(
        f"the data changed since the run started: {name!r} {how}, take it as it is with "
        "--allow-changes, or start a new run"
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
        f"{len(unreadable)} of {total} images cannot be read, more than "
        f"data.max_unreadable={limit:g}; remove them, or raise it to leave them out: {listed}{more}"
    )
