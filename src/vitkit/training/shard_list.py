"""Which shards are in which split of a run, and how a resumed run knows them again."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vitkit import whole_file
from vitkit.data.audit import DataSummary
from vitkit.data.layout import SPLITS
from vitkit.data.loader import available_memory
from vitkit.data.shards.remote import shown
from vitkit.data.shards.source import ShardSource
from vitkit.data.sources import Sample
from vitkit.data.stream import Stream
from vitkit.data.transforms import Preprocess
from vitkit.errors import ConfigError, DataError
from vitkit.training.directory import SHARDS
from vitkit.training.sampling import EVALUATION_BATCH
from vitkit.training.settings import TrainSettings
from vitkit.training.shards import Lost, ShardSplit


def assign(
    source: ShardSource, settings: TrainSettings, kept: Mapping[int, str] | None = None
) -> dict[str, list[int]]:
    """The shards of every split: as the source has them, and those that it lacks cut from train.

    A share of the shards to train on is drawn by the seed, at least one: first that of test, then
    that of val from what is left. Where a run has `kept` the splits of its shards, by number, none
    is drawn: shards that are new to it join train.

    Raises:
        DataError: no shard is left to train on.
    """
    chosen: dict[str, list[int]] = {name: [] for name in SPLITS}
    for number, shard in enumerate(source.shards):
        chosen[(kept or {}).get(number) or shard.split or "train"].append(number)
    random = np.random.default_rng(settings.seed)
    shares = {"test": settings.data.test_fraction, "val": settings.data.val_fraction}
    lacking = [
        name for name, share in shares.items() if kept is None and share and not chosen[name]
    ]
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
    kept: Mapping[int, str] | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> tuple[dict[str, ShardSplit], DataSummary]:
    """The splits of a source of shards, and what is known of them; they share one stream.

    Splits that a run has `kept`, by the number of a shard, stay.

    Raises:
        DataError: no shard to train on, or the images of an epoch are not known.
        ConfigError: a setting that asks for images by number.
    """
    _check_settings(settings)
    chosen = assign(source, settings, kept)
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
        batch_size=max(-(-settings.batch_size // ranks), EVALUATION_BATCH),
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


def splits_by_shard(samples: Sequence[Sample], origin: Path | None) -> list[str | None]:
    """The split that the run at `origin`, or around it, put each sample's shard into.

    Shards are known again by the names of their files. None: it has no such shard, or two.
    """
    for directory in (origin, origin.parent) if origin else ():
        if (directory / SHARDS).is_file():
            entries = list(_saved(directory / SHARDS).values())
            names = Counter(PurePosixPath(entry["name"]).name for entry in entries)
            splits = {PurePosixPath(entry["name"]).name: entry["split"] for entry in entries}
            own = (sample.name.partition(".tar/")[0].rpartition("/")[2] for sample in samples)
            return [
                splits.get(f"{name}.tar") if names[f"{name}.tar"] == 1 else None for name in own
            ]
    return [None] * len(samples)


def kept_splits(directory: Path, source: ShardSource) -> dict[int, str]:
    """The splits of those shards, by number, that are as the run in `directory` had them.

    They are known again by their checksums, or by their names where there are none.

    Raises:
        DataError: the run's list is absent or damaged.
    """
    saved = {
        entry["sha256"] or entry["name"]: entry for entry in _saved(directory / SHARDS).values()
    }
    pairs = ((at, saved.get(one.sha256 or shown(one.name))) for at, one in enumerate(source.shards))
    return {
        at: before["split"]
        for at, before in pairs
        if before is not None and before["samples"] == source.shards[at].samples
    }


def check_shards(directory: Path, source: ShardSource, splits: Mapping[str, ShardSplit]) -> None:
    """Compare the shards with those that `write_shards` wrote.

    Raises:
        DataError: one is new, gone, in another split or has other samples; or the list is damaged.
    """
    saved = _saved(directory / SHARDS)
    for entry in _listed(source, splits):
        before = saved.pop(str(entry["name"]), None)
        if before != entry:
            raise _changed(str(entry["name"]), "is new" if before is None else "is not as it was")
    if saved:
        raise _changed(next(iter(saved)), "is gone")


def _saved(path: Path) -> dict[str, Any]:
    try:
        entries = {str(entry["name"]): entry for entry in json.loads(path.read_text("utf-8"))}
        if any(entry["split"] not in SPLITS for entry in entries.values()):
            raise ValueError("a split that is none")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is absent or damaged ({error}); start a new run") from None
    return entries


def _changed(name: str, how: str) -> DataError:
    return DataError(
        f"the data changed since the run started: {name} {how}; restore it, take it as it is with "
        "--allow-changes, or start a new run"
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
