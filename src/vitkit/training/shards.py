"""The splits of a run whose images are read shard by shard, from front to back."""

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.audit import check_unreadable
from vitkit.data.crop import RandomCrop
from vitkit.data.shards.ahead import Ahead
from vitkit.data.shards.feed import AHEAD_BYTES, Feed, weigh
from vitkit.data.shards.order import Piece, Reference
from vitkit.data.shards.samples import Sample
from vitkit.data.shards.source import ShardSource
from vitkit.data.stream import Failure, Stream
from vitkit.errors import DataError, ImageError
from vitkit.training.distributed import Group
from vitkit.training.sampling import EVALUATION_BATCH, Batch, check_shares, sizes_of_batches
from vitkit.training.settings import TrainSettings

NAMED = 1000  # unreadable images whose names are kept


@dataclass(slots=True)
class Lost:
    """The images of a split that could not be read, each once."""

    limit: float  # share of the images that may be
    places: set[Reference] = field(default_factory=set)
    named: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of the first

    def add(self, place: Reference, name: str, reason: str, images: int) -> None:
        """Count one of a split of so many images.

        Raises:
            DataError: they are too many.
        """
        if place in self.places:
            return
        self.places.add(place)
        if len(self.named) < NAMED:
            self.named.append((name, reason))
        if len(self.places) > self.limit * images:
            check_unreadable(self.named, images, limit=min(self.limit, (NAMED - 1) / images))

    def share(self, group: Group) -> None:
        """Tell every rank what the others could not read."""
        found = group.each((self.places, self.named))
        self.places = set().union(*(places for places, _ in found))
        self.named = list(dict.fromkeys(entry for _, named in found for entry in named))


@dataclass(slots=True, eq=False)
class ShardSplit:
    """The images of some shards of a source: a `Split`, or one of `ranks` parts of it.

    An epoch shows `images` in all, those of a counted set once each. A rank reads its part of the
    shards (`order.pieces`) through a buffer (`order.Shuffle`); where the part is at its end before
    the epoch is, it begins again in another order, so that every rank has as many batches. An image
    that cannot be read is counted, and the next of its batch takes its place.
    """

    source: ShardSource
    shards: tuple[int, ...]  # by their numbers in the source
    images: int
    stream: Stream
    lost: Lost
    buffer: int = 4096  # images that are held to be drawn from
    room: float = 4e9  # bytes that they may take
    rank: int = 0
    ranks: int = 1
    places: list[Reference] = field(default_factory=list)  # of what `once` gave last

    def __len__(self) -> int:
        return self.images

    def epoch(self, settings: TrainSettings, number: int, *, done: int = 0) -> Iterator[Batch]:
        """This rank's share of the batches of an epoch, without the first `done`.

        The order depends on the seed, the epoch, the rank and the number of ranks only. Counted
        shards are taken up where batch `done` begins, and what the buffer then holds is read again;
        others are read from the front of the epoch.

        Raises:
            ConfigError: a batch has fewer images than there are ranks.
            DataError: a shard cannot be read or is damaged, or too many images are unreadable.
        """
        sizes = sizes_of_batches(self.images, settings)
        check_shares(min(sizes), self.ranks)
        parts = [[share(size, r, self.ranks) for size in sizes] for r in range(self.ranks)]
        shares = [[last - first for first, last in part] for part in parts]
        mine = shares[self.rank]
        feed = Feed(
            self.source,
            self.shards,
            settings.seed,
            number,
            self.buffer,
            self.room,
            self.rank,
            [sum(sizes_of_rank) for sizes_of_rank in shares],
        )
        groups = cut(feed.samples(sum(mine[:done])), mine[done:], self.source.name)
        return self._filled(groups, settings, first=number * len(sizes) + done)

    def once(self) -> Iterator[Batch]:
        """Every image of this rank's part once, in the order of the shards, but unreadable ones.

        Parts follow one another in the order of ranks. Batches are those of a single rank, where
        the shards are counted.
        """
        self.places.clear()
        for images, batch, failed in self._read(self._all()):
            kept = [place for place in range(len(batch)) if place not in failed]
            self.places += [batch[place].place for place in kept]
            if kept:
                yield images[kept], self._labels(batch, kept)
        if self.ranks == 1:
            self.images = len(self.places)

    def pictures(self, numbers: Sequence[int]) -> list[tuple[str, NDArray[np.uint8]]]:
        """Name and pixels, (H, W, 3), of images by their numbers in what `once` gave last."""
        samples = self.source.fetch([self.places[number] for number in numbers])
        return [(self.source.name_of(one), self.source.decode(one)) for one in samples]

    def first_of_each(self, classes: int) -> dict[int, NDArray[np.uint8]]:
        """The first image, (H, W, 3), of each of so many classes that the first shard has."""
        found: dict[int, NDArray[np.uint8]] = {}
        for sample in self.source.part(Piece(self.shards[0])) if self.shards else ():
            label = self.source.number_of(sample)
            if label is not None and label < classes and label not in found:
                with contextlib.suppress(ImageError):
                    found[label] = self.source.decode(sample)
            if len(found) == classes:
                break
        return found

    def _filled(
        self, groups: Generator[list[Sample]], settings: TrainSettings, first: int
    ) -> Iterator[Batch]:
        """Batches to train on; another image takes the place of one that cannot be read.

        It is of the same batch, or where that has none, as a small share of a rank's may, of the
        one before.
        """
        spare: Batch | None = None
        crop = settings.augment.crop
        seed = settings.seed + (self.rank << 32)  # ranks crop by random numbers of their own
        for images, batch, failed in self._read(groups, crop=crop, seed=seed, first=first):
            taken = list(range(len(batch)))
            good = [place for place in taken if place not in failed]
            if not good:
                if spare is None:
                    name = self.source.name_of(batch[0])
                    raise DataError(f"no image of the batch that has {name} can be read")
                image, label = spare
                yield image.expand(len(batch), -1, -1, -1), label.expand(len(batch))
                continue
            for place in failed:
                taken[place] = next((other for other in good if other > place), good[0])
            shown, labels = images[taken] if failed else images, self._labels(batch, taken)
            spare = shown[:1].clone(), labels[:1]
            yield shown, labels

    def _read(
        self,
        groups: Generator[list[Sample]],
        *,
        crop: RandomCrop | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> Iterator[tuple[Tensor, list[Sample], set[int]]]:
        """The images of every group of samples, and in which places there is none."""
        asked: deque[list[Sample]] = deque()
        failures: list[Failure] = []

        def plan() -> Iterator[list[bytes]]:
            for group in groups:
                asked.append(group)
                yield [sample.image for sample in group]

        stream = self.stream.batches(
            plan(), crop=crop, seed=seed, first=first, failed=failures.extend
        )
        try:
            for images in stream:
                batch = asked.popleft()
                yield images, batch, self._failed(batch, failures)
                failures.clear()
        finally:
            groups.close()

    def _failed(self, batch: Sequence[Sample], failures: Sequence[Failure]) -> set[int]:
        """The places of a batch in which there is no image with a label; they are counted."""
        reasons = {failure.position: failure.reason for failure in failures}
        for place, sample in enumerate(batch):
            if sample.error:
                reasons[place] = sample.error
            elif self.source.number_of(sample) is None:
                reasons[place] = f"its class {sample.label!r} is not known"
        for place, reason in reasons.items():
            sample = batch[place]
            self.lost.add(sample.place, self.source.name_of(sample), reason, self.images)
        return set(reasons)

    def _labels(self, batch: Sequence[Sample], places: Sequence[int]) -> Tensor:
        return torch.tensor([self.source.number_of(batch[place]) for place in places])

    def _all(self) -> Generator[list[Sample]]:
        """This rank's part of all samples, in groups."""
        samples = (sample for piece in self._part() for sample in self.source.part(piece))
        ahead = Ahead(samples, weigh=weigh, room=AHEAD_BYTES)
        try:
            while group := list(islice(ahead, EVALUATION_BATCH)):
                yield group
        finally:
            ahead.close()

    def _part(self) -> list[Piece]:
        """What this rank reads of all: groups that a single rank would read, or whole shards."""
        counts = [self.source.shards[shard].samples for shard in self.shards]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts):
            first, last = share(len(counts), self.rank, self.ranks)
            return [Piece(shard) for shard in self.shards[first:last]]
        groups = share(-(-sum(known) // EVALUATION_BATCH), self.rank, self.ranks)
        first, last = (number * EVALUATION_BATCH for number in groups)
        found, at = [], 0
        for shard, count in zip(self.shards, known, strict=True):
            start, stop = max(first - at, 0), min(last - at, count)
            if start < stop:
                found.append(Piece(shard, start, stop))
            at += count
        return found


def share(count: int, rank: int, ranks: int) -> tuple[int, int]:
    """The first and the number after the last of a rank's part, as `Tensor.tensor_split` cuts."""
    size, left = divmod(count, ranks)
    first = rank * size + min(rank, left)
    return first, first + size + (rank < left)


def cut(samples: Generator[Sample], sizes: Sequence[int], name: str) -> Generator[list[Sample]]:
    """Groups of samples of these sizes.

    Raises:
        DataError: there are not enough.
    """
    try:
        for size in sizes:
            group = list(islice(samples, size))
            if len(group) < size:
                raise DataError(f"{name}: the shards to train on hold no sample; check them")
            yield group
    finally:
        samples.close()
