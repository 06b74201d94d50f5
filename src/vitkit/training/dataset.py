"""The images of a run, in memory or to be read, and the split that each belongs to."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vitkit.data import split as splits
from vitkit.data.audit import (
    LISTED,
    DataSummary,
    check_contents,
    check_unreadable,
    load_contents,
    save_contents,
    summarise,
)
from vitkit.data.layout import SPLITS
from vitkit.data.loader import InMemory, Room
from vitkit.data.manifest import save_csv
from vitkit.data.shards.hub import is_reference, open_hub
from vitkit.data.shards.remote import is_url
from vitkit.data.shards.source import ShardSource, open_shards
from vitkit.data.sources import Limits, Source, open_source
from vitkit.data.stream import Stream
from vitkit.data.transforms import Preprocess
from vitkit.errors import DataError
from vitkit.progress import Listener, Progress, note
from vitkit.training.directory import CONTENTS, SPLIT, UNREADABLE
from vitkit.training.distributed import SOLO, Group
from vitkit.training.reading import Keys, Unreadable, placed, read_images
from vitkit.training.sampling import (
    Examples,
    Split,
    Whole,
    check_shares,
    sizes_of_batches,
)
from vitkit.training.settings import DataSettings, TrainSettings
from vitkit.training.shard_list import check_shards, kept_splits, read_shards, write_shards
from vitkit.training.shards import ShardSplit


def open_data(data: str | Path | Source, settings: DataSettings) -> Source:
    """List the images of DATA, none of which may be larger than the settings allow.

    A source that is open already stays as it is.

    Raises:
        DataError: there is no such data, or it cannot be read.
    """
    if isinstance(data, Source):
        return data
    limits = Limits.of(megapixels=settings.max_megapixels, megabytes=settings.max_megabytes)
    if is_reference(str(data)):
        return open_hub(str(data), limits=limits, classes=settings.classes)
    if settings.loading == "sequential" or is_url(str(data)):
        return open_shards(str(data), limits=limits, classes=settings.classes)
    return open_source(data, limits=limits)


def to_train_on(source: Source, settings: DataSettings) -> int:
    """About how many images are left once the splits that a source lacks are cut from it."""
    if settings.epoch_images:
        return settings.epoch_images
    count = source.trained_on
    for split, share in (("test", settings.test_fraction), ("val", settings.val_fraction)):
        if split not in source.splits:
            count -= round(count * share)
    return round(count * settings.fraction)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The images and their splits."""

    images: Tensor | Stream  # (N, C, h, w) uint8, one row for each sample of the source
    examples: Mapping[str, Split]  # "train", "val" and "test", perhaps empty; readable images only
    splits: list[str]  # of every sample of the source
    keys: Keys  # what every sample contains; None: unreadable
    summary: DataSummary

    def unreadable(self, source: Source, split: str) -> Unreadable:
        """Name and reason of what could not be read of a split; of shards, up to now."""
        part = self.examples[split]
        if isinstance(part, ShardSplit):
            return tuple(part.lost.named)
        samples = zip(source.samples, self.splits, strict=True)
        inside = {sample.name for sample, of in samples if of == split}
        return tuple(entry for entry in self.summary.unreadable if entry[0] in inside)

    def share_lost(self, group: Group) -> None:
        """Tell every rank what the others could not read of shards."""
        for part in self.examples.values():
            if isinstance(part, ShardSplit):
                part.lost.share(group)

    def account(self) -> DataSummary:
        """The summary, with what was found meanwhile that cannot be read of shards."""
        parts = [part for part in self.examples.values() if isinstance(part, ShardSplit)]
        found = tuple(entry for part in parts for entry in part.lost.named)
        return replace(self.summary, unreadable=self.summary.unreadable + found)

    def close(self) -> None:
        """End the processes that read, if there are any."""
        if isinstance(self.images, Stream):
            self.images.close()


def read_dataset(
    source: Source,
    preprocess: Preprocess,
    settings: TrainSettings,
    *,
    directory: Path | None = None,
    resume: bool = False,
    allow_changes: bool = False,
    listen: Listener,
    group: Group = SOLO,
    device: torch.device | None = None,
    room: Room | None = None,
) -> Dataset:
    """Decode all images and split them, with `resume` as the run in `directory` did.

    With `allow_changes` images that are new, or have another content or label, join train, but for
    those that the source has a split for or whose content is in another; so do new shards.

    Images that memory does not hold are decoded again whenever they are needed. Those that it holds
    lie on a CUDA `device` to train on, if half of what is free there will do. What it holds of each
    is `room`, where that has been settled.

    A new run that too many unreadable images stop leaves the list of all in `directory`. Of a
    `group` every rank gets its own share of the same batches.

    Raises:
        DataError: too many images are unreadable, none of a class is left to train on, or the data
            is not what the resumed run was started with.
    """
    with contextlib.ExitStack() as on_error:
        begun = directory if resume else None
        if isinstance(source, ShardSource):
            dataset = _of_shards(
                source, preprocess, settings, begun, allow_changes, group, on_error
            )
        else:
            images, keys, unreadable = read_images(
                source, preprocess, settings, listen, group, room
            )
            if isinstance(images, Stream):
                on_error.callback(images.close)
            # A resumed run has its own list.
            own = directory if group.first and not resume else None
            check_readable(source, unreadable, settings.data.max_unreadable, own)
            if begun is None:
                chosen = make_splits(source, keys, settings)
            else:
                chosen = (merged_splits if allow_changes else read_splits)(source, keys, begun)
            dataset = in_splits(source, images, chosen, keys, unreadable, settings, group)
            dataset = replace(dataset, examples=placed(dataset.examples, device))
        parts = dataset.examples
        check_shares(min(sizes_of_batches(len(parts["train"]), settings)), group.ranks)
        on_error.pop_all()
    announce(dataset.summary, {name: len(part) for name, part in parts.items()}, listen)
    return dataset


def _of_shards(
    source: ShardSource,
    preprocess: Preprocess,
    settings: TrainSettings,
    begun: Path | None,
    allow_changes: bool,
    group: Group,
    on_error: contextlib.ExitStack,
) -> Dataset:
    """The same of shards, of a run that has `begun` there with the splits that it has."""
    kept = kept_splits(begun, source) if begun is not None and allow_changes else None
    ranks = {"rank": group.rank, "ranks": group.ranks}
    examples, summary = read_shards(source, preprocess, settings, kept=kept, **ranks)
    on_error.callback(examples["train"].stream.close)
    if begun is not None and not allow_changes:
        check_shards(begun, source, examples)
    return Dataset(examples["train"].stream, examples, [], (), summary)


def check_readable(
    source: Source, unreadable: Unreadable, limit: float, directory: Path | None
) -> None:
    """Accept a few unreadable images, a share of `limit`; else leave the list in `directory`.

    Raises:
        DataError: they are too many.
    """
    try:
        check_unreadable(unreadable, len(source.samples), limit=limit)
    except DataError as error:
        if directory is None:
            raise
        save_unreadable(directory, unreadable)
        raise DataError(f"{error}; all are listed in {directory / UNREADABLE}") from None


def in_splits(
    source: Source,
    images: InMemory | Stream,
    chosen: list[str],
    keys: Keys,
    unreadable: Unreadable,
    settings: TrainSettings,
    group: Group,
) -> Dataset:
    """The readable images in the splits `chosen` for them, and what is to be said of all."""
    labels = torch.tensor([sample.label or 0 for sample in source.samples])
    pixels: Tensor | Stream
    if isinstance(images, Stream):
        pixels, whole = images, None
    else:
        pixels = images.images
        whole = None if images.whole is None else Whole(images.whole, images.sides)
    examples = {}
    for name in SPLITS:
        rows = [i for i, split in enumerate(chosen) if split == name and keys[i] is not None]
        numbers = torch.tensor(rows, dtype=torch.int64)
        examples[name] = Examples(pixels, labels, numbers, group.rank, group.ranks, whole)
    check_trained(source, examples["train"])
    summary = summarise(source, chosen, keys, unreadable)
    if settings.data.fraction < 1:
        examples["train"] = share_of(examples["train"], settings.data.fraction, settings.seed)
        used = examples["train"].labels[examples["train"].rows]
        counts = torch.bincount(used, minlength=len(source.classes)).tolist()
        summary = replace(summary, counts={**summary.counts, "train": counts})
    return Dataset(pixels, examples, chosen, keys, summary)


def make_splits(source: Source, keys: Sequence[bytes | None], settings: TrainSettings) -> list[str]:
    """A new split of every sample; images with the same content stay together.

    The shares are of the readable images. The others stay where the source has them, or in train.
    """
    readable = [index for index, key in enumerate(keys) if key is not None]
    resolved = splits.resolve(
        [source.samples[index] for index in readable],
        [keys[index] for index in readable],
        val=settings.data.val_fraction,
        test=settings.data.test_fraction,
        seed=settings.seed,
    )
    chosen = [sample.split or "train" for sample in source.samples]
    for index, split in zip(readable, resolved, strict=True):
        chosen[index] = split
    return chosen


def share_of(train: Examples, fraction: float, seed: int) -> Examples:
    """A share of every class's images, at least one, drawn by `seed`; the rest is not used.

    A smaller share lies within a larger one, so that runs on several differ in their number only.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = train.rows[torch.randperm(len(train), generator=generator)]
    labels = train.labels[rows]
    members = [rows[labels == label] for label in labels.unique()]
    kept = torch.cat([some[: max(round(fraction * len(some)), 1)] for some in members])
    return replace(train, rows=kept.sort().values)


def check_trained(source: Source, train: Examples) -> None:
    """Check that every class has a readable image to train on.

    Raises:
        DataError: one has none; the message names the first.
    """
    if not len(train):
        raise DataError(
            f"{source.name} has no readable image outside test and val to train on; add a folder "
            "train/, or rename one of them"
        )
    trained = set(train.labels[train.rows].tolist())
    missing = [name for label, name in enumerate(source.classes) if label not in trained]
    if missing:
        more = f" (nor have {len(missing) - 1} others)" if missing[1:] else ""
        raise DataError(
            f"{source.name}: the class {missing[0]!r} has no readable image to train on{more}; "
            "add images of it, or remove it"
        )


def read_splits(source: Source, keys: Sequence[bytes | None], directory: Path) -> list[str]:
    """The split that a run made, after a check that its images are still the same."""
    saved = splits.load_split(directory / SPLIT)
    chosen = splits.match_split(source.samples, source.classes, saved)
    check_contents(directory / CONTENTS, [sample.name for sample in source.samples], keys)
    return chosen


def merged_splits(source: Source, keys: Sequence[bytes | None], directory: Path) -> list[str]:
    """The split that a run made, of images that are still the same; and a place for all others."""
    saved = {row.name: row for row in splits.load_split(directory / SPLIT)}
    contents = load_contents(directory / CONTENTS)
    places: dict[str, str] = {contents.get(name, ""): row.split for name, row in saved.items()}
    chosen = []
    for sample, key in zip(source.samples, keys, strict=True):
        row, content = saved.get(sample.name), "" if key is None else key.hex()
        label = source.classes[sample.label or 0]
        if row is not None and row.label == label and contents.get(sample.name) == content:
            chosen.append(row.split)
        else:
            chosen.append(sample.split or places.get(content) or "train")
    return chosen


def write_dataset(directory: Path, source: Source, dataset: Dataset) -> None:
    """What a resumed run must find again, and which images were left out."""
    if isinstance(source, ShardSource):
        shards = {n: part for n, part in dataset.examples.items() if isinstance(part, ShardSplit)}
        write_shards(directory, source, shards)
        return
    names = [sample.name for sample in source.samples]
    labels = [source.classes[sample.label or 0] for sample in source.samples]
    splits.save_split(directory / SPLIT, zip(names, labels, dataset.splits, strict=True))
    save_contents(directory / CONTENTS, names, dataset.keys)
    save_unreadable(directory, dataset.summary.unreadable)


def save_unreadable(directory: Path, unreadable: Sequence[tuple[str, str]]) -> None:
    """List the images that could not be read and why, in place of an older list."""
    if unreadable:
        save_csv(directory / UNREADABLE, ("file_name", "reason"), unreadable)
    else:
        (directory / UNREADABLE).unlink(missing_ok=True)


def announce(summary: DataSummary, sizes: Mapping[str, int], listen: Listener) -> None:
    """Tell how many images each split has, and the first that were left out."""
    figures = {name: f"{size:,}" for name, size in sizes.items()}
    if summary.unreadable:
        figures["unreadable"] = f"{len(summary.unreadable):,}"
    total = sum(sizes.values())
    listen(Progress("images", total, total, figures=figures, final=True))
    if not sizes["val"] and not sizes["test"]:
        none = "no image is left to score on, so the last weights are kept and not measured"
        listen(note(f"{none}; add images, or a folder test/"))
    for name, reason in summary.unreadable[:LISTED]:
        listen(Progress("left out", total, total, figures={f"{name}:": reason}, final=True))
