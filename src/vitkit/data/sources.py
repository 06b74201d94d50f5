"""Where images come from: folders, zips, manifests, what is built in; one way to read them all."""

import glob
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vitkit.data import synthetic
from vitkit.data.archive import MAX_MEMBERS, MAX_TOTAL_BYTES, Archive, open_archive
from vitkit.data.folder import Folder, is_taken, list_folder
from vitkit.data.image import MAX_BYTES, MAX_PIXELS, decode
from vitkit.data.layout import Row, arrange
from vitkit.data.manifest import load_manifest
from vitkit.data.shards.find import find_shards, names_shards
from vitkit.data.shards.remote import is_url, shown
from vitkit.data.shards.scan import tabulate
from vitkit.data.view import Viewer, cut
from vitkit.errors import DataError, ImageError, nearest

BUILT_IN = ("digits", "shapes")
READ = (
    "give a folder of class folders, the same in a .zip, a .csv or .jsonl manifest, .tar shards, "
    "or one of " + ", ".join(BUILT_IN)
)
SHAPES = {"count": 1000, "size": 64, "seed": 0}  # images, pixels of a side, seed
# A list of 10^7 samples takes 1.7 GB, drawing an image of 2048 pixels a side 0.5 GB and 2.5 s.
SHAPES_RANGE = {"count": (1, 10**7), "size": (synthetic.MIN_SIZE, 2048), "seed": (0, 2**32 - 1)}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a source, before it is read."""

    name: str  # path relative to the source, unique in it
    label: int | None = None  # index into the classes
    split: str | None = None  # train, val or test, where the source says so


class Reader(Protocol):
    """Maps an index to RGB, (H, W, 3) uint8, or to what `view` chooses of it, as `decode` does."""

    def __call__(self, index: int, view: Viewer | None = None) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, eq=False)
class Source:
    """A list of images, in the order of their names, and the way to read them.

    `read` gives the image at an index, or raises ImageError. It may be called from several threads
    at once, and travels to other processes.
    """

    name: str  # what the user gave
    classes: tuple[str, ...]  # empty where there are no labels
    samples: tuple[Sample, ...]
    read: Reader = field(repr=False)
    skipped: tuple[str, ...] = ()  # files that lie outside the class folders

    @property
    def counts(self) -> Mapping[str, int]:
        """Samples by their split, "" for those without; as far as they are known."""
        return Counter(sample.split or "" for sample in self.samples)

    @property
    def trained_on(self) -> int:
        """Samples that the source does not keep from training."""
        return self.counts.get("", 0) + self.counts.get("train", 0)

    @property
    def splits(self) -> frozenset[str]:
        """The splits that it has of its own."""
        return frozenset(sample.split for sample in self.samples if sample.split)

    def some(self, count: int) -> Iterator[NDArray[np.uint8]]:
        """About so many images to train on, from all over the source, without unreadable ones."""
        train = [i for i, sample in enumerate(self.samples) if sample.split in (None, "train")]
        for index in train[:: max(len(train) // count, 1)]:
            try:
                yield self.read(index)
            except ImageError:
                continue

    def subset(self, indices: Sequence[int]) -> "Source":
        """The samples at `indices`, in that order."""
        chosen = tuple(self.samples[index] for index in indices)
        return replace(self, samples=chosen, read=Part(self.read, tuple(indices)))


@dataclass(frozen=True, slots=True)
class Part:
    """Reads image number i of a part as number `indices[i]` of the whole."""

    read: Reader
    indices: tuple[int, ...]

    def __call__(self, index: int, view: Viewer | None = None) -> NDArray[np.uint8]:
        return self.read(self.indices[index], view) if view else self.read(self.indices[index])


class Store(Protocol):
    """Reads files by name: a Folder or an Archive."""

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is refused for its size."""

    max_pixels: int = MAX_PIXELS  # of an image
    max_bytes: int = MAX_BYTES  # of a file, or of a member of a zip when unpacked
    max_total_bytes: int = MAX_TOTAL_BYTES  # of all members of a zip
    max_members: int = MAX_MEMBERS  # of a zip

    @classmethod
    def of(cls, *, megapixels: float, megabytes: float) -> "Limits":
        """The limits of one image, in the units of settings."""
        return cls(max_pixels=round(megapixels * 1e6), max_bytes=round(megabytes * 1e6))

    def decode(self, data: bytes, view: Viewer | None = None) -> NDArray[np.uint8]:
        """An encoded image as `image.decode` gives it."""
        return decode(data, max_pixels=self.max_pixels, max_bytes=self.max_bytes, view=view)

    def folder(self, root: Path) -> Folder:
        return Folder(root, self.max_bytes)

    def archive(self, path: Path) -> Archive:
        return open_archive(
            path,
            max_bytes=self.max_bytes,
            max_total_bytes=self.max_total_bytes,
            max_members=self.max_members,
        )


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, eq=False)
class FileReader:
    """Decodes image number i from the store that holds its file."""

    names: Sequence[str]
    stores: Sequence[tuple[str, Store]]  # with the prefix that precedes its names in `names`
    which: Sequence[int]  # store of every name
    limits: Limits

    def __call__(self, index: int, view: Viewer | None = None) -> NDArray[np.uint8]:
        return self.limits.decode(self.file(index), view)

    def file(self, index: int) -> bytes:
        """The file of image number i, as it is."""
        prefix, store = self.stores[self.which[index]]
        return store.read(self.names[index].removeprefix(prefix))


def open_source(data: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> Source:
    """Labelled images: a folder or zip of class folders, a manifest, shards, `digits` or `shapes`.

    `shapes` takes options: `shapes:count=2000,size=64,seed=1`, with 1 to 10,000,000 images of 16 to
    2048 pixels a side. Write `./digits` for a folder of that name. Classes are in order of their
    characters (`10` before `9`), as in torchvision's ImageFolder. `layout` tells which files are
    images and which folders are classes, `folder.list_folder` which links are followed.

    Raises:
        DataError: no such data, of a kind that is not read, or not laid out as it must be.
    """
    text = str(data)
    if isinstance(data, str) and data.partition(":")[0] in BUILT_IN:
        return _open_built_in(data)
    path = Path(data)
    if is_url(text):
        raise DataError(f"{shown(text)} is read for training only; fetch it to a folder")
    if names_shards(text):
        return _open_shards(text, limits)
    _check_exists(path, text)
    if path.is_dir():
        names, folders = list_folder(path)
        if not names and any(path.glob("**/*.tar")):
            return _open_shards(text, limits)
        rows, skipped = arrange(names, folders, where=text)
        return _labelled(text, rows, limits.folder(path), limits, skipped)
    if (kind := path.suffix.lower()) == ".zip":
        archive = limits.archive(path)
        rows, skipped = arrange(archive.names, archive.folders, where=text)
        return _labelled(text, rows, archive, limits, skipped)
    if kind in (".csv", ".jsonl"):
        rows = sorted(load_manifest(path))
        return _labelled(text, rows, limits.folder(path.parent), limits)
    raise DataError(f"{text} is of a kind that is not read; {READ}")


def open_inputs(inputs: Sequence[str | Path], *, limits: Limits = DEFAULT_LIMITS) -> Source:
    """Images without labels: files, folders with all below them, zips, and globs (`**` too).

    Samples come in the order of the inputs, each input's in the order of names, and once where
    inputs overlap. They are named by the path that leads to them, `photos.zip/cats/1.jpg` inside a
    zip. A file given by its own name is taken whatever that is.

    Raises:
        DataError: an input that does not exist, matches nothing or holds no image; none at all.
    """
    stores: list[tuple[str, Store]] = [("", limits.folder(Path()))]
    found: dict[str, int] = {}  # name, and its store
    for text in map(str, inputs):
        path, store = Path(text), 0
        if path.suffix.lower() == ".zip" and path.is_file():
            archive = limits.archive(path)
            names: Sequence[str] = [f"{path}/{name}" for name in archive.names]
            store = len(stores)
            stores.append((f"{path}/", archive))
        else:
            names = list(_input_names(text))
        if not names:
            raise DataError(f"{text} holds no image; name images, folders, zips or globs of them")
        for name in names:
            found.setdefault(name, store)
    if not found:
        raise DataError("no input; name images, folders, zips or globs of them")
    which = array("I", found.values())
    title = str(inputs[0]) if len(inputs) == 1 else f"{inputs[0]} and {len(inputs) - 1} more"
    reader = FileReader(tuple(found), tuple(stores), which, limits)
    return Source(title, (), tuple(map(Sample, found)), reader)


def _labelled(
    text: str, rows: Sequence[Row], store: Store, limits: Limits, skipped: tuple[str, ...] = ()
) -> Source:
    classes = tuple(sorted({row.label for row in rows}))
    index = {label: number for number, label in enumerate(classes)}
    samples = tuple(Sample(row.name, index[row.label], row.split) for row in rows)
    names = tuple(row.name for row in rows)
    reader = FileReader(names, (("", store),), array("I", bytes(4 * len(names))), limits)
    return Source(text, classes, samples, reader, skipped)


def _open_shards(text: str, limits: Limits) -> Source:
    """Shards of this machine, whose images are read in any order."""
    index = find_shards(text)
    if url := next((shard.name for shard in index.shards if is_url(shard.name)), None):
        raise DataError(f"{shown(url)} is read for training only; fetch the shards to a folder")
    table = tabulate(index, max_bytes=limits.max_bytes)
    return _labelled(text, sorted(table.list()), table, limits)


def _check_exists(path: Path, text: str) -> None:
    if os.path.exists(path):
        return
    if text.startswith("hf-datasets:"):
        raise DataError(f"{text} is read for training only; fetch its images to a folder")
    missing = path
    while missing != missing.parent and not missing.parent.is_dir():
        missing = missing.parent
    known = os.listdir(missing.parent) if os.access(missing.parent, os.R_OK) else []
    known += BUILT_IN if len(path.parts) == 1 else ()
    raise DataError(f"{text} does not exist{nearest(missing.name, known) or '; check the path'}")


def _input_names(text: str) -> Iterator[str]:
    """The files that one input other than a zip stands for."""
    path = Path(text)
    if glob.has_magic(text) and not os.path.exists(path):
        yield from _glob(text)
    elif path.is_dir():
        yield from _folder_names(path, "")
    else:
        _check_exists(path, text)
        if not path.is_file():
            raise DataError(f"{text} is a device or pipe; give a file or a folder")
        yield str(path)


def _folder_names(folder: Path, pattern: str) -> Iterator[str]:
    names, _ = list_folder(folder)
    for name in names:
        if not pattern or PurePosixPath(name).match(pattern):
            yield str(folder / name)


def _glob(text: str) -> Iterator[str]:
    """Unlike `glob`, `**` is not led in circles by links."""
    before, stars, after = text.partition("**")
    ends = {before[-1:], after[:1]} if stars else set()
    if "**" in after or not ends <= {"", "/"}:
        raise DataError(
            f"{text} has '**' twice or inside a name; write it once, as in photos/**/*.jpg"
        )
    for match in sorted(glob.glob(before or ".") if stars else glob.glob(text)):
        path = Path(match)
        if path.is_dir():
            yield from _folder_names(path, after.strip("/"))
        elif path.is_file() and is_taken(path):
            yield str(path)


@dataclass(frozen=True, slots=True, eq=False)
class ArrayReader:
    """Gives image number i of an array of grey images, (N, H, W), as RGB."""

    images: NDArray[np.uint8]

    def __call__(self, index: int, view: Viewer | None = None) -> NDArray[np.uint8]:
        image = np.repeat(self.images[index, :, :, None], 3, axis=2)
        return cut(image, view) if view else image


@dataclass(frozen=True, slots=True)
class ShapesReader:
    """Draws image number i."""

    size: int
    seed: int

    def __call__(self, index: int, view: Viewer | None = None) -> NDArray[np.uint8]:
        image = synthetic.draw(index, seed=self.seed, size=self.size).image
        return cut(image, view) if view else image


def _open_built_in(text: str) -> Source:
    kind, _, options = text.partition(":")
    if kind == "shapes":
        return _shapes(text, **_shapes_options(text, options))
    if options:
        raise DataError(f"{text}: digits has no options; write digits, or ./{text} for a folder")
    from sklearn.datasets import load_digits  # here: it takes a second

    digits = load_digits()
    images: NDArray[np.uint8] = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
    samples = tuple(Sample(f"{at:04d}", int(label)) for at, label in enumerate(digits.target))
    return Source(text, tuple("0123456789"), samples, ArrayReader(images))


def _shapes(text: str, *, count: int, size: int, seed: int) -> Source:
    digits = len(str(count - 1))
    kinds = len(synthetic.CLASSES)  # `draw` takes them in turn
    samples = tuple(Sample(f"{at:0{digits}d}", at % kinds) for at in range(count))
    return Source(text, synthetic.CLASSES, samples, ShapesReader(size, seed))


def _shapes_options(text: str, options: str) -> dict[str, int]:
    chosen = dict(SHAPES)
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        if name not in chosen:
            raise DataError(
                f"{text}: {name!r} is not an option ({', '.join(chosen)} are)"
                f"{nearest(name, chosen)}"
            )
        low, high = SHAPES_RANGE[name]
        if not value.isdecimal() or not low <= int(value) <= high:
            raise DataError(f"{text}: {name}={value} must be a whole number from {low} to {high}")
        chosen[name] = int(value)
    return chosen
