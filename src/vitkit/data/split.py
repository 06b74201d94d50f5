"""Which images train and which measure: stratified, seeded, equal images always together."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from vitkit.data.layout import SPLITS
from vitkit.data.manifest import csv_lines, save_csv
from vitkit.errors import ConfigError, DataError

COLUMNS = ("file_name", "label", "split")
REMEDY = "restore the data, take it as it is with --allow-changes, or start a new run"


class SplitRow(NamedTuple):
    """One line of a saved split."""

    name: str
    label: str
    split: str


class Placed(Protocol):
    """What this module needs to know of a sample."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> int | None: ...
    @property
    def split(self) -> str | None: ...


def resolve(
    samples: Sequence[Placed],
    groups: Sequence[Hashable] | None,
    *,
    val: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
) -> list[str]:
    """The final split of every sample: the source's own, and those it lacks cut from `train`.

    `test` is a share of everything, `val` of what is then left for training; 0 makes none. Samples
    without a split count as `train`.

    A share f of N images is f * N, rounded up, and of every class its share rounded up or down, but
    at least one, while one image of every class stays in `train`. Images with the same group (None:
    alone) stay together, in `train` where their labels differ; groups of many images can move the
    counts. The same arguments give the same answer on every platform.

    Raises:
        ConfigError: a share outside [0, 1), a negative seed, or groups of another length.
        DataError: a sample without a label, or with a split that is not train, val or test.
    """
    labels = [_label(sample) for sample in samples]
    _check({"val": val, "test": test}, seed, labels, groups)
    splits = [sample.split or "train" for sample in samples]
    units = _units(groups, len(labels), seed)
    own = set(splits)
    if "test" not in own:
        _carve(splits, labels, units, "test", test, Counter(labels))
    if "val" not in own:
        left = Counter(k for k, split in zip(labels, splits, strict=True) if split == "train")
        _carve(splits, labels, units, "val", val, left)
    return splits


def save_split(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write (name, label, split) lines as csv; the file appears whole or not at all."""
    save_csv(path, COLUMNS, rows)


def load_split(path: Path) -> list[SplitRow]:
    """Read what `save_split` wrote.

    Raises:
        DataError: it is absent or damaged, has an unknown split, or a name twice.
    """
    rows: dict[str, SplitRow] = {}
    for number, fields in csv_lines(path, errors="surrogateescape"):
        name, label, split = (fields.get(column, "") for column in COLUMNS)
        if split not in SPLITS:
            raise DataError(
                f"{path}, line {number}: split={split!r} is none of {', '.join(SPLITS)}"
            )
        if name in rows:
            raise DataError(f"{path}, line {number}: {name!r} is there twice; keep one line")
        rows[name] = SplitRow(name, label, split)
    if not rows:
        raise DataError(f"{path} lists no image; remove it to have a new split made")
    return list(rows.values())


def match_split(
    samples: Sequence[Placed], classes: Sequence[str], rows: Iterable[SplitRow]
) -> list[str]:
    """The saved split of every sample.

    Raises:
        DataError: the data is not what the split was made for: an image or its label differs.
    """
    saved = {row.name: row for row in rows}
    splits = []
    for sample in samples:
        row = saved.pop(sample.name, None)
        if row is None:
            raise DataError(f"{sample.name!r} is not in the saved split; {REMEDY}")
        if row.label != (label := classes[_label(sample)]):
            raise DataError(
                f"{sample.name!r} is {label!r}, but {row.label!r} in the saved split; {REMEDY}"
            )
        splits.append(row.split)
    if saved:
        raise DataError(
            f"{next(iter(saved))!r} of the saved split is not in the data any more; {REMEDY}"
        )
    return splits


def _check(
    fractions: Mapping[str, float],
    seed: int,
    labels: Sequence[int],
    groups: Sequence[Hashable] | None,
) -> None:
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise ConfigError(f"{name}={fraction} must be in [0, 1); what remains is trained on")
    if seed < 0:
        raise ConfigError(f"seed={seed} must not be negative")
    if groups is not None and len(groups) != len(labels):
        raise ConfigError(f"{len(groups)} groups for {len(labels)} images; give one for each")


def _label(sample: Placed) -> int:
    if sample.label is None or sample.split not in (None, *SPLITS):
        raise DataError(
            f"{sample.name!r} has label={sample.label} and split={sample.split}; a split needs "
            f"labelled images, each in {', '.join(SPLITS)} or in none"
        )
    return sample.label


def _units(groups: Sequence[Hashable] | None, count: int, seed: int) -> list[list[int]]:
    """The images that move together, each in one unit, in random order."""
    units: dict[Hashable, list[int]] = defaultdict(list)
    for index, group in enumerate([None] * count if groups is None else groups):
        units[("alone", index) if group is None else ("together", group)].append(index)
    order = np.random.PCG64(seed).random_raw(count).tolist()  # a stream that NumPy promises to keep
    return sorted(units.values(), key=lambda unit: order[unit[0]])


def _carve(
    splits: list[str],
    labels: Sequence[int],
    units: Sequence[list[int]],
    name: str,
    fraction: float,
    counts: Mapping[int, int],
) -> None:
    """Move from `train` to split `name`, in place, a share of `counts` images of every class."""
    if not fraction:
        return
    offered = _movable(splits, labels, units)
    spare = {label: sum(map(len, units)) for label, units in offered.items()}
    share = Fraction(str(fraction))  # exactly the decimal given: 0.1 * 30 is 3, not a bit more
    for label, target in _apportion(counts, spare, share).items():
        for unit in _fill(offered.get(label, []), target):
            for index in unit:
                splits[index] = name


def _movable(
    splits: Sequence[str], labels: Sequence[int], units: Sequence[list[int]]
) -> dict[int, list[list[int]]]:
    """By class, the units that may leave `train`: all of one label, and none the last there."""
    movable: dict[int, list[list[int]]] = defaultdict(list)
    settled = set()  # classes with images in train that stay there
    for unit in units:
        places = {splits[index] for index in unit}
        kinds = {labels[index] for index in unit}
        if places == {"train"} and len(kinds) == 1:
            movable[kinds.pop()].append(unit)
        else:
            settled |= {labels[index] for index in unit if splits[index] == "train"}
    return {label: units if label in settled else units[:-1] for label, units in movable.items()}


def _apportion(
    counts: Mapping[int, int], spare: Mapping[int, int], share: Fraction
) -> dict[int, int]:
    """Images to take of every class: largest remainders, at least one where one is to spare."""
    exact = {label: share * counts[label] for label in sorted(counts)}
    limits = {label: min(math.ceil(exact[label]), spare.get(label, 0)) for label in exact}
    targets = {label: min(max(math.floor(exact[label]), 1), limits[label]) for label in exact}
    missing = math.ceil(sum(exact.values())) - sum(targets.values())
    room = [label for label in exact if targets[label] < limits[label]]
    room.sort(key=lambda label: targets[label] - exact[label])  # stable: ties by class
    for label in room[: max(missing, 0)]:
        targets[label] += 1
    return targets


def _fill(units: Sequence[list[int]], target: int) -> list[list[int]]:
    """The first units that fit into `target` images; the smallest if none does."""
    taken = []
    missing = target
    for unit in units:
        if len(unit) <= missing:
            taken.append(unit)
            missing -= len(unit)
    return taken or ([min(units, key=len)] if target else [])
