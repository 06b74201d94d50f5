"""The rows of one job in several files, each written whole by one of many processes."""

import csv
import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from vitkit.cli.writer import writable
from vitkit.data.sources import Source
from vitkit.errors import ConfigError, DataError
from vitkit.training.distributed import Group


def part_of(source: Source, out: Path | None, group: Group) -> tuple[Source, Path]:
    """This rank's share of what is missing of `out`, and a new name for it.

    `answers.csv` becomes `answers-00000-of-00002.csv` and so on. A share is even and in order.

    Raises:
        ConfigError: there is no `out`.
        DataError: an earlier part cannot be read.
    """
    if out is None:
        raise ConfigError(f"{group.ranks} ranks write a file each; give --out")
    held: set[str] = set()
    if group.first:
        held.update(name for part in parts(out) for name in names_in(part))
    names = (writable(sample.name) for sample in source.samples)
    missing = [index for index, name in enumerate(names) if name not in held]
    missing = group.of_first(missing)
    mine = np.array_split(np.array(missing, np.int64), group.ranks)[group.rank].tolist()
    return source.subset(mine), new_part(out, group)


def parts(out: Path) -> list[Path]:
    """The parts of `out` that are whole, whoever has written them."""
    pattern = rf"{re.escape(out.stem)}-\d{{5,}}-of-\d{{5,}}(-\d+)?{re.escape(out.suffix)}"
    return sorted(path for path in out.parent.iterdir() if re.fullmatch(pattern, path.name))


def new_part(out: Path, group: Group) -> Path:
    """A name that no part has: a rank that writes a second time puts `-2` behind its own."""
    stem = f"{out.stem}-{group.rank:05}-of-{group.ranks:05}"
    names = (f"{stem}-{number}" if number > 1 else stem for number in count(1))
    return next(path for name in names if not (path := out.with_name(name + out.suffix)).exists())


def names_in(part: Path) -> Iterator[str]:
    """The inputs whose rows a part holds.

    Raises:
        DataError: it is no part.
    """
    try:
        if part.suffix == ".parquet":
            import pyarrow.parquet as parquet

            file = parquet.ParquetFile(part)
            if "file" in file.schema_arrow.names:  # one without rows has no columns
                yield from file.read(["file"])["file"].to_pylist()
        else:
            with open(part, encoding="utf-8", newline="") as lines:
                if part.suffix == ".csv":
                    yield from (row["file"] for row in csv.DictReader(lines))
                else:
                    yield from (json.loads(line)["file"] for line in lines)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{part} is no part of predictions: {error}; remove it") from None
