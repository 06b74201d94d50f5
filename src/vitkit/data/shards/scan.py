"""Counting the samples of shards that have no index, by reading their headers and labels."""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vitkit.data.layout import Row
from vitkit.data.shards.index import Index, Shard
from vitkit.data.shards.remote import open_bytes
from vitkit.data.shards.samples import Label, Sample, class_number, read_samples
from vitkit.errors import DataError, ImageError

MAX_CLASSES = 1_000_000


def scan(index: Index, *, max_bytes: int) -> Index:
    """The same shards counted, with the classes of their labels; those must lie on this machine.

    A sample without label or image counts too: it is one that cannot be read.

    Raises:
        DataError: a shard is damaged, or its labels are partly numbers and partly names.
    """
    labels: list[list[Label]] = []
    totals: list[int] = []
    for shard in index.shards:
        own: list[Label] = []
        total = 0
        for sample in _samples(shard, max_bytes):
            total += 1
            if not sample.error:
                own.append(sample.label)
        labels.append(own)
        totals.append(total)
    classes = index.classes or classes_of((label for own in labels for label in own), index)
    numbers = {name: number for number, name in enumerate(classes)}
    shards = []
    for shard, total, own in zip(index.shards, totals, labels, strict=True):
        found = (class_number(label, classes, numbers) for label in own)
        counts = Counter(number for number in found if number is not None)
        size = Path(shard.name).stat().st_size
        shards.append(replace(shard, samples=total, bytes=size, counts=dict(counts)))
    return Index(classes, tuple(shards))


def classes_of(labels: Iterable[Label], index: Index) -> tuple[str, ...]:
    """The names of classes in order: `0`, `1`, ... where labels are numbers."""
    known = set(labels)
    where = index.shards[0].name
    if not known:
        raise DataError(f"{where} and the others hold no sample with an image and a label")
    numbers = [label for label in known if isinstance(label, int)]
    names = [label for label in known if isinstance(label, str)]
    if numbers and names:
        raise DataError(
            f"{where} and the others have numbers as labels, as {numbers[0]}, and names, as "
            f"{names[0]!r}; write an index, by vitkit data pack, or use one kind"
        )
    if names:
        return tuple(sorted(names))
    if not 0 <= min(numbers) <= max(numbers) < MAX_CLASSES:
        raise DataError(f"{where}: labels from {min(numbers)} to {max(numbers)} are no classes")
    return tuple(map(str, range(max(numbers) + 1)))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Where the images of shards are: they are read by name, as those of a folder or zip are."""

    paths: tuple[str, ...]  # of the shards
    rows: dict[str, int] = field(repr=False)  # by the name of a sample, `train-0.tar/a/1`
    labels: list[str] = field(repr=False)
    splits: list[str | None] = field(repr=False)
    shards: "array[int]" = field(repr=False)  # the number of a sample's shard,
    offsets: "array[int]" = field(repr=False)  # where its image begins,
    sizes: "array[int]" = field(repr=False)  # and how many bytes it has
    errors: dict[int, str] = field(repr=False)  # what is wrong with samples that have no image

    def list(self) -> Iterator[Row]:
        """All samples."""
        for name, row in self.rows.items():
            yield Row(name, self.labels[row], self.splits[row])

    def read(self, name: str) -> bytes:
        """The image of a sample.

        Raises:
            ImageError: there is none, or the shard cannot be read.
        """
        row = self.rows[name]
        if row in self.errors:
            raise ImageError(self.errors[row])
        path, size = Path(self.paths[self.shards[row]]), self.sizes[row]
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(self.offsets[row])
                data = file.read(size)
        except OSError as error:
            raise ImageError(f"cannot be read from {path.name}: {error.strerror}") from error
        if data is None or len(data) < size:
            raise ImageError(f"cannot be read: {path.name} ends too early")
        return data


def tabulate(index: Index, *, max_bytes: int) -> Table:
    """Where every image of shards is that lie on this machine.

    Raises:
        DataError: a shard is damaged, a key comes twice in it, or labels are of two kinds.
    """
    counted = index if index.classes else scan(index, max_bytes=max_bytes)
    classes = counted.classes
    numbers = {name: number for number, name in enumerate(classes)}
    paths = tuple(shard.name for shard in counted.shards)
    above = os.path.commonpath([os.path.dirname(path) for path in paths])
    table = Table(paths, {}, [], [], array("I"), array("Q"), array("Q"), {})
    for at, shard in enumerate(counted.shards):
        for sample in _samples(shard, max_bytes):
            row = len(table.labels)
            name = f"{os.path.relpath(shard.name, above or '.')}/{sample.key}"
            if table.rows.setdefault(name, row) != row:
                raise DataError(f"{shard.name} has the key {sample.key!r} twice; pack it again")
            number = class_number(sample.label, classes, numbers)
            if sample.error or number is None:
                table.errors[row] = sample.error or f"its class {sample.label!r} is not known"
            table.labels.append(classes[number or 0])
            table.splits.append(shard.split)
            table.shards.append(at)
            table.offsets.append(sample.offset)
            table.sizes.append(sample.size)
    return table


def _samples(shard: Shard, max_bytes: int) -> Iterable[Sample]:
    file = open_bytes(shard.name)
    try:
        yield from read_samples(file, max_bytes=max_bytes, images=False)
    finally:
        file.close()
