"""Samples that are read shard by shard, from front to back: for sets that no disk holds."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitkit.data.shards.find import find_shards
from vitkit.data.shards.index import Index, Shard
from vitkit.data.shards.order import Piece, Reference
from vitkit.data.shards.remote import PATIENCE, Patience, is_url, open_bytes, shown
from vitkit.data.shards.samples import Sample, class_number, read_samples
from vitkit.data.shards.scan import scan
from vitkit.data.sources import DEFAULT_LIMITS, Limits, Source
from vitkit.data.view import Viewer
from vitkit.errors import DataError, ImageError

TRIES = 4  # of a server before training: who gave a wrong address learns it after a second


class Shards(Protocol):
    """Anything whose samples come shard by shard."""

    def samples(self, shard: int, piece: Piece) -> Iterator[Sample]:
        """Those samples of a shard that belong to a piece of it, in their order.

        Raises:
            DataError: the shard is damaged or cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Tars:
    """The `.tar` shards of an index."""

    shards: Sequence[Shard]
    max_bytes: int
    patience: Patience = PATIENCE

    def samples(self, shard: int, piece: Piece) -> Iterator[Sample]:
        """As in `Shards`."""
        file = open_bytes(self.shards[shard].name, self.patience)
        last = None if piece.stop is None else piece.stop - 1
        try:
            for sample in read_samples(
                file, shard=shard, max_bytes=self.max_bytes, wanted=piece.wanted
            ):
                yield sample
                if sample.place.number == last:
                    break
        finally:
            file.close()


@dataclass(frozen=True, slots=True)
class Encoded:
    """The reader of a source whose samples are given as the bytes of a file."""

    limits: Limits

    def __call__(self, index: Any, view: Viewer | None = None) -> NDArray[np.uint8]:
        return self.limits.decode(index, view)


@dataclass(frozen=True, eq=False, kw_only=True)
class ShardSource(Source):
    """Shards, their classes and splits; it lists no samples and reads none by number.

    Only what an index or a scan has counted is known before it is read.
    """

    shards: tuple[Shard, ...]
    reader: Shards = field(repr=False)
    limits: Limits
    totals: Mapping[str, int] = field(default_factory=dict)  # samples by split, if all are known

    @property
    def counts(self) -> Mapping[str, int]:
        """As of any source, as far as they are counted."""
        if self.totals:
            return self.totals
        counts: Counter[str] = Counter()
        for shard in self.shards:
            counts[shard.split or ""] += shard.samples or 0
        return counts

    @property
    def splits(self) -> frozenset[str]:
        """As of any source."""
        return frozenset(shard.split for shard in self.shards if shard.split)

    def some(self, count: int) -> Iterator[NDArray[np.uint8]]:
        """The first images of the first shard to train on."""
        first = next(
            (at for at, one in enumerate(self.shards) if one.split in (None, "train")), None
        )
        if first is None:
            return
        for sample in islice(self.reader.samples(first, Piece(first)), count):
            try:
                yield self.decode(sample)
            except ImageError:
                continue

    def number_of(self, sample: Sample) -> int | None:
        """The number of a sample's class; None if it has none, or one that is not known."""
        return None if sample.error else class_number(sample.label, self.classes, self._numbers)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}

    def name_of(self, sample: Sample) -> str:
        """What a person calls a sample: `train-000.tar/a/1`."""
        shard = shown(self.shards[sample.place.shard].name)
        return f"{shard.rpartition('/')[2]}/{sample.key}"

    def decode(self, sample: Sample) -> NDArray[np.uint8]:
        """The image of a sample, (H, W, 3).

        Raises:
            ImageError: it has none, or one that cannot be read.
        """
        if sample.error:
            raise ImageError(sample.error)
        return self.limits.decode(sample.image)

    def part(self, piece: Piece) -> Iterator[Sample]:
        """The samples of a piece, after a check that a counted shard has as many as it should.

        Raises:
            DataError: it has fewer, or is damaged or cannot be read.
        """
        found = 0
        for sample in self.reader.samples(piece.shard, piece):
            found += 1
            yield sample
        expected = found if piece.stop is None else len(range(piece.start, piece.stop, piece.step))
        if found < expected:
            shard = self.shards[piece.shard]
            raise DataError(
                f"{shard.name} has fewer samples than the {shard.samples} of its index; "
                "fetch or pack it again"
            )

    def fetch(self, references: Sequence[Reference]) -> list[Sample]:
        """Samples by their places, read shard by shard, in the order asked for.

        Raises:
            DataError: one is not there any more.
        """
        places: dict[int, set[int]] = {}
        for reference in references:
            places.setdefault(reference.shard, set()).add(reference.number)
        found: dict[Reference, Sample] = {}
        for shard, wanted in places.items():
            for sample in self.part(Piece(shard, min(wanted), max(wanted) + 1)):
                if sample.place.number in wanted:
                    found[sample.place] = sample
        return [found[reference] for reference in references]


def open_shards(
    data: str,
    *,
    limits: Limits = DEFAULT_LIMITS,
    classes: int | Sequence[str] | None = None,
    patience: Patience = PATIENCE,
) -> ShardSource:
    """The shards of DATA: a folder, pattern, list or index of `.tar` files, here or behind URLs.

    `classes` is the number of classes, or their names, where no index says them. Shards of this
    machine without an index are scanned.

    Raises:
        DataError: as `find_shards` and `scan`, or the classes are not known.
    """
    index = find_shards(data, replace(patience, tries=min(patience.tries, TRIES)))
    local = not any(is_url(shard.name) for shard in index.shards)
    if not index.classes and classes is not None:
        names = map(str, range(classes)) if isinstance(classes, int) else classes
        index = Index(tuple(names), index.shards)
    if local and any(shard.samples is None for shard in index.shards):
        index = scan(index, max_bytes=limits.max_bytes)
    if not index.classes:
        raise DataError(
            f"{data} has no shards.json beside it that names its classes; set data.classes to "
            "their number, or to [name, name, ...]"
        )
    return ShardSource(
        shown(data),
        index.classes,
        (),
        Encoded(limits),
        shards=index.shards,
        reader=Tars(index.shards, limits.max_bytes, patience),
        limits=limits,
    )
