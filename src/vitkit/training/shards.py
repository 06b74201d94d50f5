"""The splits of a run whose images are read shard by shard, from front to back."""

import contextlib
import json
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit import whole_file
from vitkit.data.audit import DataSummary, check_unreadable
from vitkit.data.crop import RandomCrop
from vitkit.data.layout import SPLITS
from vitkit.data.loader import available_memory
from vitkit.data.shards.ahead import Ahead
from vitkit.data.shards.feed import AHEAD_BYTES, Feed, weigh
from vitkit.data.shards.order import Piece, Reference
from vitkit.data.shards.remote import shown
from vitkit.data.shards.samples import Sample
from vitkit.data.shards.source import ShardSource
from vitkit.data.stream import Failure, Stream
from vitkit.data.transforms import Preprocess
from vitkit.errors import ConfigError, DataError, ImageError
from vitkit.training.sampling import EVALUATION_BATCH, Batch, sizes_of_batches
from vitkit.training.settings import TrainSettings

SHARDS = "shards.json"  # of a run: which shard is in which split
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

    @property
    def in_memory(self) -> bool:
        """They never are."""
        return False

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
        if min(sizes) < self.ranks:
            raise ConfigError(
                f"batches of {min(sizes)} images are too small for {self.ranks} ranks; raise "
                "batch_size"
            )
        shares = [[len(range(r, size, self.ranks)) for size in sizes] for r in range(self.ranks)]
        mine = shares[self.rank]
        feed = Feed(
            self.source,
            self.shards,
            settings.seed,
            number,
            self.buffer,
            self.room,
            self.rank,
            [sum(share) for share in shares],
        )
        groups = cut(feed.samples(sum(mine[:done])), mine[done:], self.source.name)
        return self._filled(groups, settings, first=number * len(sizes) + done)

    def once(self) -> Iterator[Batch]:
        """Every image once, in the order of the shards; unreadable ones are left out."""
        self.places.clear()
        for images, batch, failed in self._read(self._all()):
            kept = [place for place in range(len(batch)) if place not in failed]
            self.places += [batch[place].place for place in kept]
            if kept:
                yield images[kept], self._labels(batch, kept)
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
        """Batches to train on; another image takes the place of one that cannot be read."""
        crop = settings.augment.crop
        seed = settings.seed + (self.rank << 32)  # ranks crop by random numbers of their own
        for images, batch, failed in self._read(groups, crop=crop, seed=seed, first=first):
            taken = list(range(len(batch)))
            good = [place for place in taken if place not in failed]
            for place in failed:
                if not good:
                    name = self.source.name_of(batch[0])
                    raise DataError(f"no image of the batch that has {name} can be read")
                taken[place] = next((other for other in good if other > place), good[0])
            yield images[taken] if failed else images, self._labels(batch, taken)

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
        """All samples, grouped."""
        counts = {shard: self.source.shards[shard].samples for shard in self.shards}
        samples = (
            sample
            for shard, count in counts.items()
            for sample in self.source.part(Piece(shard, 0, count))
        )
        ahead = Ahead(samples, weigh=weigh, room=AHEAD_BYTES)
        try:
            while group := list(islice(ahead, EVALUATION_BATCH)):
                yield group
        finally:
            ahead.close()


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


def assign(source: ShardSource, settings: TrainSettings) -> dict[str, list[int]]:
    """The shards of every split: as the source has them, and those that it lacks cut from train.

    A share of the shards to train on is drawn by the seed, at least one: first that of test, then
    that of val from what is left.

    Raises:
        DataError: no shard is left to train on.
    """
    chosen: dict[str, list[int]] = {name: [] for name in SPLITS}
    for number, shard in enumerate(source.shards):
        chosen[shard.split or "train"].append(number)
    random = np.random.default_rng(settings.seed)
    shares = {"test": settings.data.test_fraction, "val": settings.data.val_fraction}
    lacking = [name for name, share in shares.items() if share and not chosen[name]]
    if len(chosen["train"]) <= len(lacking):
        raise DataError(
            f"{source.name} has {len(chosen['train'])} shards to train on and none for "
            f"{' and '.join(lacking) or 'it'}; name some train-*, val-* and test-*.tar, pack "
            "smaller ones, or set data.val_fraction=0 data.test_fraction=0"
        )
    for name in lacking:
        train = chosen["train"]
        room = len(train) - (len(lacking) - lacking.index(name))
        count = min(max(round(shares[name] * len(train)), 1), room)
        taken = set(random.permutation(len(train))[:count].tolist())
        chosen[name] = [shard for place, shard in enumerate(train) if place in taken]
        chosen["train"] = [shard for place, shard in enumerate(train) if place not in taken]
    return chosen


def read_shards(
    source: ShardSource,
    preprocess: Preprocess,
    settings: TrainSettings,
    *,
    rank: int = 0,
    ranks: int = 1,
) -> tuple[dict[str, ShardSplit], DataSummary]:
    """The splits of a source of shards, and what is known of them; they share one stream.

    Raises:
        DataError: no shard to train on, or the images of an epoch are not known.
        ConfigError: a setting that asks for images by number.
    """
    _check_settings(settings)
    chosen = assign(source, settings)
    sizes = {name: known_size(source, name, shards) for name, shards in chosen.items()}
    train = settings.data.epoch_images or sizes["train"]
    if train is None:
        raise DataError(
            f"{source.name} does not say how many images it has; set data.epoch_images to how many "
            "an epoch should show"
        )
    if not train:
        raise DataError(f"{source.name} leaves no image to train on; check its shards")
    a_shard = train / max(len(chosen["train"]), 1)
    room = settings.data.memory_gb * 1e9 if settings.data.memory_gb else available_memory() / 4
    stream = Stream(
        source,
        preprocess,
        batch_size=max(settings.batch_size, EVALUATION_BATCH),
        workers=settings.data.workers,
    )
    splits = {}
    for name, shards in chosen.items():
        size = sizes[name]
        images = train if name == "train" else round(a_shard * len(shards))  # until it is read
        splits[name] = ShardSplit(
            source,
            tuple(shards),
            images if size is None or name == "train" else size,
            stream,
            Lost(settings.data.max_unreadable),
            settings.data.shuffle_buffer,
            room,
            rank,
            ranks,
        )
    return splits, summarise(source, chosen)


def known_size(source: ShardSource, split: str, shards: Sequence[int]) -> int | None:
    """Samples of some shards; None if they are not counted."""
    counts = [source.shards[shard].samples for shard in shards]
    known = [count for count in counts if count is not None]
    if len(known) == len(counts):
        return sum(known)
    whole = [n for n, one in enumerate(source.shards) if (one.split or "train") == split]
    total = source.totals.get(split)
    return None if total is None else round(total * len(shards) / max(len(whole), 1))


def summarise(source: ShardSource, chosen: Mapping[str, Sequence[int]]) -> DataSummary:
    """Images by split and class, as far as they are counted; contents are not compared."""
    counts: dict[str, list[int]] = {}
    for name, shards in chosen.items():
        if shards and all(source.shards[shard].counts for shard in shards):
            counts[name] = [0] * len(source.classes)
            for shard in shards:
                for label, count in source.shards[shard].counts.items():
                    counts[name][label] += count
    return DataSummary(source.name, source.classes, counts, (), 0, 0, 0, (), compared=False)


def _check_settings(settings: TrainSettings) -> None:
    data = settings.data
    asked = {
        "data.balanced": data.balanced,
        "data.fraction": data.fraction < 1,
        "augment.repeats": settings.augment.repeats > 1,
    }
    for key, wanted in asked.items():
        if wanted:
            raise ConfigError(
                f"{key} needs images in any order, and shards are read in sequence; leave it out, "
                "or fetch them to a folder and set data.loading=auto"
            )


def write_shards(directory: Path, source: ShardSource, splits: Mapping[str, ShardSplit]) -> None:
    """What a resumed run must find again."""
    whole_file.write(directory / SHARDS, json.dumps(_listed(source, splits), indent=1) + "\n")


def check_shards(directory: Path, source: ShardSource, splits: Mapping[str, ShardSplit]) -> None:
    """Compare the shards with those that `write_shards` wrote.

    Raises:
        DataError: one is new, gone, in another split or has other samples; or the list is damaged.
    """
    path = directory / SHARDS
    try:
        saved = {entry["name"]: entry for entry in json.loads(path.read_text("utf-8"))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is absent or damaged ({error}); start a new run") from None
    for entry in _listed(source, splits):
        before = saved.pop(entry["name"], None)
        if before != entry:
            how = "is new" if before is None else "is not as it was"
            raise DataError(
                f"the data changed since the run started: {entry['name']} {how}; "
                "restore it or start a new run"
            )
    if saved:
        raise DataError(
            f"the data changed since the run started: {next(iter(saved))} is gone; "
            "restore it or start a new run"
        )


def _listed(
    source: ShardSource, splits: Mapping[str, ShardSplit]
) -> list[dict[str, str | int | None]]:
    return [
        {
            "name": shown(source.shards[number].name),
            "split": name,
            "samples": source.shards[number].samples,
            "sha256": source.shards[number].sha256,
        }
        for name, split in splits.items()
        for number in split.shards
    ]
