"""What a set of shards holds, as `shards.json` beside them says: classes, counts, checksums."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitkit import whole_file
from vitkit.data.layout import SPLITS, leaves
from vitkit.errors import DataError

NAME = "shards.json"
FORMAT = "vitkit-shards-1"
MAX_INDEX_BYTES = 512_000_000


@dataclass(frozen=True, slots=True)
class Shard:
    """One `.tar`, and what is known of it."""

    name: str  # its address: a path or an URL; in the file, relative to it
    split: str | None = None  # train, val or test; None: nothing says
    samples: int | None = None  # None: not counted
    bytes: int | None = None
    sha256: str = ""
    counts: Mapping[int, int] = field(default_factory=dict)  # samples by number of the class


@dataclass(frozen=True, slots=True)
class Index:
    """The shards of a set, in the order of their names, and the names of its classes."""

    classes: tuple[str, ...]
    shards: tuple[Shard, ...]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        shards = [
            {
                "name": shard.name,
                "split": shard.split,
                "samples": shard.samples,
                "bytes": shard.bytes,
                "sha256": shard.sha256,
                "counts": {str(label): count for label, count in sorted(shard.counts.items())},
            }
            for shard in self.shards
        ]
        lines = ",\n".join(f"  {json.dumps(shard, ensure_ascii=True)}" for shard in shards)
        classes = json.dumps(list(self.classes), ensure_ascii=True)
        head = f'{{"format": "{FORMAT}",\n "classes": {classes},\n "shards": [\n'
        whole_file.write(path, f"{head}{lines}\n]}}\n")


def parse(text: bytes, where: str) -> Index:
    """What `Index.save` wrote; `where` is what errors call it.

    Raises:
        DataError: it is something else.
    """
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        classes = content["classes"]
        if not all(isinstance(name, str) for name in classes):
            raise ValueError("its classes are not names")
        shards = tuple(_shard(entry, len(classes)) for entry in content["shards"])
        if not shards:
            raise ValueError("it lists no shard")
        if len({shard.name for shard in shards}) < len(shards):
            raise ValueError("it lists a shard twice")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        lacks = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{where} is no index of shards: {lacks}; pack the data again") from None
    return Index(tuple(classes), shards)


def _shard(entry: Mapping[str, Any], classes: int) -> Shard:
    name, split, samples, size = (entry[key] for key in ("name", "split", "samples", "bytes"))
    if not isinstance(name, str) or not name or leaves(name):
        raise ValueError(f"the shard {name!r} does not lie below it")
    if split not in (None, *SPLITS):
        raise ValueError(f"{name} has the split {split!r}")
    if not (type(samples) is int and type(size) is int and min(samples, size) >= 0):
        raise ValueError(f"{name} has samples={samples!r} and bytes={size!r}")
    counts = {int(label): count for label, count in entry["counts"].items()}
    labels_known = all(0 <= label < classes for label in counts)
    if not labels_known or not all(type(count) is int and count > 0 for count in counts.values()):
        raise ValueError(f"{name} counts samples of a class that is not there")
    if sum(counts.values()) > samples:
        raise ValueError(f"{name} counts more samples than it has")
    return Shard(name, split, samples, size, str(entry["sha256"]), counts)
