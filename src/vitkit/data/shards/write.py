"""Packing labelled images into `.tar` shards in the WebDataset layout: `key.jpg` and `key.cls`."""

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from vitkit import whole_file
from vitkit.data.container import find_kind
from vitkit.data.layout import SPLITS
from vitkit.data.shards.index import NAME, Index, Shard
from vitkit.data.sources import FileReader, Part, Reader, Source
from vitkit.errors import DataError, ImageError
from vitkit.progress import Listener, Progress, silent

EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WebP": "webp",
    "BMP": "bmp",
    "GIF": "gif",
    "TIFF": "tiff",
}
SHARD_BYTES = 256_000_000
SEED = 0  # of the order in which samples are packed
END = bytes(2 * tarfile.BLOCKSIZE)  # of an archive


@dataclass(frozen=True, slots=True)
class Packed:
    """What was written."""

    index: Index
    unreadable: tuple[tuple[str, str], ...]  # (name, reason) of what was left out


def pack(
    source: Source,
    folder: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    split: str | None = None,
    listen: Listener = silent,
) -> Packed:
    """Write the samples of a source, or of one split of it, into `folder`, which is made new.

    The bytes of an image are those of its file; where there is no file they are a PNG. Samples of
    one split come in random order, so that a reader that shuffles no more than a few thousand sees
    classes mixed; the same source gives the same bytes. A shard has at most `shard_bytes` unless
    one image is larger. Samples without a split count as train. Shards appear whole, one by one,
    and the index last: without it the set is not complete.

    What cannot be read, or is no image by its first bytes, is left out and listed.

    Raises:
        DataError: `folder` exists, there is no such split, or nothing can be packed.
    """
    rows = {name: _rows(source, name) for name in SPLITS if split in (None, name)}
    if split is not None and not rows.get(split):
        known = ", ".join(name for name in SPLITS if len(_rows(source, name)))
        raise DataError(f"{source.name} has no split {split!r} to pack; it has {known}")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise DataError(f"{folder} exists; name a new folder, or remove it first") from None
    writer = _Writer(source, folder, shard_bytes, sum(map(len, rows.values())), listen)
    shards = [shard for name, chosen in rows.items() for shard in writer.write(name, chosen)]
    if not shards:
        folder.rmdir()
        name, reason = writer.unreadable[0]
        raise DataError(
            f"{source.name} has no image that can be packed; the first: {name} {reason}"
        )
    index = Index(source.classes, tuple(shards))
    index.save(folder / NAME)
    whole_file.sync(folder)
    return Packed(index, tuple(writer.unreadable))


def _rows(source: Source, split: str) -> list[int]:
    """The samples of a split in the order in which they are packed."""
    rows = [i for i, sample in enumerate(source.samples) if (sample.split or "train") == split]
    order = np.random.default_rng((SEED, SPLITS.index(split))).permutation(len(rows))
    return [rows[place] for place in order]


@dataclass(slots=True)
class _Writer:
    """Writes shard after shard."""

    source: Source
    folder: Path
    shard_bytes: int
    total: int  # samples of all splits
    listen: Listener
    done: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def write(self, split: str, rows: Sequence[int]) -> Iterator[Shard]:
        """The shards of a split, each on the disk when it comes."""
        samples = self._samples(rows)
        sample = next(samples, None)
        number = 0
        while sample is not None:
            path = self.folder / f"{split}-{number:06}.tar"
            with whole_file.replacing(path) as temporary, temporary.open("wb") as file:
                hashed = _Hashed(file)
                counts: Counter[int] = Counter()
                while sample is not None:
                    label, entry = sample
                    if counts and hashed.size + len(entry) + len(END) > self.shard_bytes:
                        break
                    hashed.write(entry)
                    counts[label] += 1
                    sample = next(samples, None)
                hashed.write(END)
            digest = hashed.hash.hexdigest()
            yield Shard(path.name, split, counts.total(), hashed.size, digest, dict(counts))
            number += 1

    def _samples(self, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Class and tar entries of every sample that can be read."""
        for row in rows:
            name, label = self.source.samples[row].name, self.source.samples[row].label or 0
            self.done += 1
            self.listen(Progress("pack", self.done, self.total))
            try:
                image = encoded(self.source.read, row)
                kind = find_kind(image)
            except ImageError as error:
                self.unreadable.append((name, str(error)))
                continue
            key = self._key(name)
            yield (
                label,
                _entry(f"{key}.{EXTENSIONS[kind]}", image)
                + _entry(f"{key}.cls", str(label).encode()),
            )

    def _key(self, name: str) -> str:
        """A name without its extension and other dots, which would end the key; unique."""
        folder, slash, file = name.rpartition("/")
        stem = file.rpartition(".")[0] or file
        key = wanted = f"{folder}{slash}{stem.replace('.', '_') or '_'}"
        number = 1
        while key in self.keys:
            number += 1
            key = f"{wanted}-{number}"
        self.keys.add(key)
        return key


def encoded(read: Reader, index: int) -> bytes:
    """The file of image number `index`; a PNG of it if it is not in one.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(read, Part):
        return encoded(read.read, read.indices[index])
    if isinstance(read, FileReader):
        return read.file(index)
    memory = io.BytesIO()
    Image.fromarray(read(index)).save(memory, "PNG")
    return memory.getvalue()


class _Hashed:
    """A file that is written to, with its size and SHA-256 so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = 0
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.size += len(data)
        self.hash.update(data)


def _entry(name: str, data: bytes) -> bytes:
    """A member of an archive, as it is the same on every machine and day."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")
    return header + data + bytes(-len(data) % tarfile.BLOCKSIZE)
