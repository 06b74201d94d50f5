"""Data sets of the Hugging Face hub, streamed by its library `datasets` (extra `hub`)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vitkit.data.layout import split_name
from vitkit.data.shards.index import Shard
from vitkit.data.shards.order import Piece, Reference
from vitkit.data.shards.samples import Sample
from vitkit.data.shards.source import Encoded, ShardSource
from vitkit.data.sources import DEFAULT_LIMITS, Limits
from vitkit.errors import DataError, MissingExtra, nearest

SCHEME = "hf-datasets:"
LABELS = ("label", "labels", "cls", "class")  # columns without names of classes


def is_reference(data: str) -> bool:
    """Whether DATA is `hf-datasets:owner/name[:split]`."""
    return data.startswith(SCHEME)


@dataclass(frozen=True, slots=True)
class HubShards:
    """The files of a data set, which `datasets` calls its shards."""

    name: str
    splits: Sequence[tuple[Any, int]]  # of every shard: its split, and its number therein
    image: str  # columns
    label: str
    max_bytes: int

    def samples(self, shard: int, piece: Piece) -> Iterator[Sample]:
        """As in `Shards`."""
        split, number = self.splits[shard]
        with one_line(self.name):
            rows = split.shard(num_shards=split.num_shards, index=number)
            for place, row in enumerate(rows):
                if piece.stop is not None and place >= piece.stop:
                    break
                if piece.wanted(place):
                    yield self._sample(Reference(shard, place), row)

    def _sample(self, place: Reference, row: Mapping[str, Any]) -> Sample:
        image, label = row[self.image] or {}, row[self.label]
        path, data = image.get("path") or str(place.number), image.get("bytes")
        key = path.rpartition("/")[2]
        if data is None and image.get("path"):
            import fsspec

            with fsspec.open(path, "rb") as file:
                data = file.read(self.max_bytes + 1)
        if data is None or label is None:
            return Sample(
                place, key, error="it has no image" if data is None else "it has no label"
            )
        if len(data) > self.max_bytes:
            return Sample(place, key, error=f"it is over max_bytes={self.max_bytes:,}")
        return Sample(place, key, data, label, size=len(data))


def open_hub(
    data: str,
    *,
    limits: Limits = DEFAULT_LIMITS,
    classes: int | Sequence[str] | None = None,
) -> ShardSource:
    """A data set with a column of images and one of labels, none of which is fetched yet.

    With `:split` only that one is read, and counts as the images to train on. `classes` is the
    number of classes, or their names, where the data set does not tell them.

    Raises:
        MissingExtra: `datasets` is not installed.
        DataError: there is no such data set or split, or it has no such columns.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtra(
            f"{data} needs the library datasets; install it by pip install 'vitkit[hub]'"
        ) from None
    name, _, wanted = data.removeprefix(SCHEME).partition(":")
    with one_line(data):
        found: Mapping[str, Any] = datasets.load_dataset(name, streaming=True)
    if wanted and wanted not in found:
        known = ", ".join(found)
        raise DataError(f"{data}: no split {wanted!r} (it has {known}){nearest(wanted, found)}")
    named = {split: of for of in found if (split := split_name(of)) is not None}
    if wanted or not named:
        named = {"": wanted or next(iter(found))}
    image, label, own = columns(data, found[next(iter(named.values()))].features)
    names = own or (map(str, range(classes)) if isinstance(classes, int) else classes)
    if names is None:
        raise DataError(
            f"{data} does not name its classes; set data.classes to their number, or to "
            "[name, name, ...]"
        )
    shards: list[Shard] = []
    splits: list[tuple[Any, int]] = []
    totals: dict[str, int] = {}
    for split, of in named.items():
        rows = found[of].cast_column(image, datasets.Image(decode=False))
        info = (rows.info.splits or {}).get(of)
        total = None if info is None else info.num_examples or None
        if total is not None:
            totals[split or "train"] = total
        for number in range(rows.num_shards):
            samples = total if rows.num_shards == 1 else None
            shards.append(Shard(f"{data}/{of}/{number}", split or None, samples))
            splits.append((rows, number))
    return ShardSource(
        data,
        tuple(names),
        (),
        Encoded(limits),
        shards=tuple(shards),
        reader=HubShards(data, splits, image, label, limits.max_bytes),
        limits=limits,
        totals=totals,
    )


def columns(data: str, features: Mapping[str, Any] | None) -> tuple[str, str, list[str]]:
    """The columns of images and of labels, and the names of the classes if there are any.

    Raises:
        DataError: there is no such column.
    """
    kinds = {name: type(feature).__name__ for name, feature in (features or {}).items()}
    image = next((name for name, kind in kinds.items() if kind == "Image"), None)
    label = next((name for name, kind in kinds.items() if kind == "ClassLabel"), None)
    plain = next((name for name in LABELS if name in kinds), None)
    if image is None or (label or plain) is None:
        what = "images" if image is None else "labels"
        raise DataError(
            f"{data} has no column of {what} (its columns: {', '.join(kinds) or 'none'})"
        )
    names = list(features[label].names) if features and label else []
    return image, label or plain or "", names


@contextmanager
def one_line(data: str) -> Iterator[None]:
    """What the library and the network below it raise, as one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())[:300] or repr(error)
        raise DataError(
            f"{data} cannot be read: {reason}; check its name and the network"
        ) from None
