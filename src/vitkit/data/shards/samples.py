"""What the members of a shard mean: `a/1.jpg` and `a/1.cls` are the image and label of a sample.

This is the layout of WebDataset. A key ends at the first dot of a file's name; the members of a
sample follow one another. `.cls` holds the number of a class, or its name; `.json` an object with
one of them as `label` (or `cls`, or `class`). Other members are passed over.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vitkit.data.layout import leaves
from vitkit.data.shards.order import Reference
from vitkit.data.shards.tar import Member, Readable, Tar

IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "img", "image"})
MAX_LABEL_BYTES = {"cls": 4096, "json": 1_000_000}
LABEL_KEYS = ("label", "cls", "class")  # of a json

Label = int | str  # number or name of a class


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard; either it has an `error`, or an image and a label."""

    place: Reference
    key: str
    image: bytes = b""
    label: Label = 0
    error: str = ""
    offset: int = 0  # of the image in the shard
    size: int = 0  # bytes of it


def read_samples(
    file: Readable,
    *,
    shard: int = 0,
    max_bytes: int,
    wanted: Callable[[int], bool] = lambda index: True,
    images: bool = True,
) -> Iterator[Sample]:
    """The samples of `shard` that are `wanted` by their index; others are passed over unread.

    Without `images` only labels are read. What is wrong with one sample is its `error`: an image
    over `max_bytes`, no image, no label, or a name that leads outside.

    Raises:
        DataError: the shard is damaged, cut short or compressed.
    """
    tar = Tar(file)
    key, index, parts = None, -1, _Parts()
    while (member := tar.next()) is not None:
        own, kind = split_key(member.name)
        if own != key:
            if key is not None and wanted(index):
                yield parts.sample(Reference(shard, index), key)
            key, index, parts = own, index + 1, _Parts()
        if wanted(index):
            parts.take(tar, member, kind, max_bytes, images)
    if key is not None and wanted(index):
        yield parts.sample(Reference(shard, index), key)


def split_key(name: str) -> tuple[str, str]:
    """The key of a member, and the kind of its content in lower case: `a/1`, `jpg`."""
    folder, slash, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return f"{folder}{slash}{stem}", kind.rpartition(".")[2].lower()


class _Parts:
    """The members of a sample."""

    def __init__(self) -> None:
        self.image: Member | None = None
        self.data = b""
        self.labels: dict[str, bytes] = {}
        self.error = ""

    def take(self, tar: Tar, member: Member, kind: str, max_bytes: int, images: bool) -> None:
        if leaves(member.name) or "\\" in member.name:
            self.error = "its name leads outside the shard"
        elif kind in IMAGES and self.image is None:
            self.image = member
            if member.size > max_bytes:
                self.error = f"{member.size:,} bytes are over max_bytes={max_bytes:,}"
            elif images:
                self.data = tar.data(member.size)
        elif member.size <= MAX_LABEL_BYTES.get(kind, -1) and kind not in self.labels:
            self.labels[kind] = tar.data(member.size)

    def sample(self, place: Reference, key: str) -> Sample:
        label = _label(self.labels)
        if self.error or self.image is None or label is None:
            none = "it has no image" if self.image is None else "it has no label (.cls or .json)"
            return Sample(place, key, error=self.error or none)
        image = self.image
        return Sample(place, key, self.data, label, "", image.offset, image.size)


def _label(labels: dict[str, bytes]) -> Label | None:
    """The label that the `.cls` or else the `.json` of a sample gives."""
    if "cls" in labels:
        text = labels["cls"].decode("utf-8", "replace").strip()
        return _number(text) if text else None
    try:
        content = json.loads(labels.get("json", b"null"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    found = next((content[name] for name in LABEL_KEYS if name in content), None)
    if isinstance(found, bool) or not isinstance(found, int | str) or found == "":
        return None
    return found


def _number(text: str) -> Label:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def class_number(label: Label, classes: Sequence[str], numbers: dict[str, int]) -> int | None:
    """The number of a label's class, by `numbers` of the names; None if there is no such class."""
    if isinstance(label, str):
        return numbers.get(label)
    return label if 0 <= label < len(classes) else None
