"""The shards that DATA names: a folder, a pattern, a list or an index, here or behind a URL."""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

from vitkit.data.layout import lies_hidden, split_name
from vitkit.data.shards import index as indices
from vitkit.data.shards.index import MAX_INDEX_BYTES, NAME, Index, Shard
from vitkit.data.shards.remote import PATIENCE, Absent, Patience, is_url, open_bytes, shown
from vitkit.errors import DataError

MAX_SHARDS = 1_000_000
BRACE = re.compile(r"\{([^{}]*)\}")
SPAN = re.compile(r"(\d{1,12})\.\.(\d{1,12})")
CLOUDS = ("s3://", "gs://", "az://", "hdfs://", "pipe:", "ftp://", "file://")


def names_shards(data: str) -> bool:
    """Whether DATA names shards, or a list or index of them; of a folder its name does not say."""
    return data.startswith(CLOUDS) or _path(data).endswith((".tar", ".txt", f"/{NAME}"))


def find_shards(data: str, patience: Patience = PATIENCE) -> Index:
    """The shards of DATA in the order in which it names them, by their addresses.

    What is known of them is in `shards.json` beside them. Where that is absent, there are no
    classes, and no shard is counted. Splits that it does not say are taken from names:
    `train-000.tar`, `imagenet-val-3.tar`, `test/0.tar`.

    Raises:
        DataError: there is none, too many, an index of others, or an address that is not read.
    """
    if data.startswith(CLOUDS):
        raise DataError(f"{data}: only files and http(s) URLs are read; use the URL of the bucket")
    if _path(data).endswith(".json"):
        index = indices.parse(_read(data, patience), shown(data))
        return Index(index.classes, tuple(_placed(data, shard) for shard in index.shards))
    addresses = list(_addresses(data, patience))
    if not addresses:
        raise DataError(f"{data} names no .tar shard; check the folder or the pattern")
    if len(set(addresses)) < len(addresses):
        raise DataError(f"{shown(data)} names a shard twice; keep one")
    classes, known = _known(data, addresses, patience)
    shards = [known.get(address, Shard(address)) for address in addresses]
    return Index(
        classes, tuple(replace(one, split=one.split or split_of(one.name)) for one in shards)
    )


def _known(
    data: str, addresses: Sequence[str], patience: Patience
) -> tuple[tuple[str, ...], dict[str, Shard]]:
    """Classes, and shards by address, that the indices beside them tell of; nothing, or all."""
    known: dict[str, Shard] = {}
    classes: tuple[str, ...] = ()
    place = Path(data) / NAME
    whole = not is_url(data) and place.is_file()  # a folder packed with folders below it
    for where in [str(place)] if whole else dict.fromkeys(_beside(a, NAME) for a in addresses):
        try:
            index = indices.parse(_read(where, patience), shown(where))
        except Absent:
            return (), {}
        if known and index.classes != classes:
            raise DataError(f"{shown(where)} has other classes than those before; pack all anew")
        classes = index.classes
        known |= {one.name: one for one in (_placed(where, shard) for shard in index.shards)}
    if strange := next((address for address in addresses if address not in known), None):
        raise DataError(f"{shown(strange)} is not in the index beside it; remove one of them")
    return classes, known


def split_of(address: str) -> str | None:
    """The split that the name of a shard, or else its folder, says."""
    path = PurePosixPath(_path(address))
    words = re.split(r"[^A-Za-z]+", path.name.removesuffix(".tar"))
    return next(filter(None, map(split_name, (*words, path.parent.name))), None)


def expand(pattern: str) -> Iterator[str]:
    """`a-{000..099}.tar` and `{train,val}-0.tar` as the shell expands them; leading zeros stay.

    Raises:
        DataError: it would be too many.
    """
    parts = BRACE.split(pattern)  # text, inside of a brace, text, ...
    choices: list[Sequence[str]] = [[part] for part in parts]
    total = 1
    for place in range(1, len(parts), 2):
        span = SPAN.fullmatch(parts[place])
        if span is None:
            choices[place] = parts[place].split(",")
            total *= len(choices[place])
            continue
        first, last = span.groups()
        total *= abs(int(last) - int(first)) + 1
        if total > MAX_SHARDS:
            break
        step = 1 if int(first) <= int(last) else -1
        numbers = range(int(first), int(last) + step, step)
        choices[place] = [f"{number:0{len(first)}}" for number in numbers]
    if total > MAX_SHARDS:
        raise DataError(f"{pattern} stands for {total:,} shards, over {MAX_SHARDS:,}; check it")
    return map("".join, product(*choices))


def _addresses(data: str, patience: Patience) -> Iterator[str]:
    if not is_url(data) and Path(data).is_dir():
        yield from map(str, _tars(Path(data)))
    elif _path(data).endswith(".txt"):
        lines = _read(data, patience).decode("utf-8", "surrogateescape").splitlines()
        for line in filter(None, map(str.strip, lines)):
            if not line.startswith("#"):
                yield from _matches(line if is_url(line) else _beside(data, line))
    else:
        yield from _matches(data)


def _matches(pattern: str) -> Iterator[str]:
    if not is_url(pattern) and Path(pattern).is_file():
        yield pattern
        return
    for address in expand(pattern):
        if is_url(address):
            yield address
        elif glob.has_magic(address):
            yield from sorted(glob.glob(address))
        elif Path(address).is_file():
            yield address
        else:
            raise DataError(f"{address} does not exist; check the pattern")


def _tars(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("**/*.tar") if path.is_file())
    return sorted(path for path in found if not lies_hidden(str(path.relative_to(folder))))


def _read(address: str, patience: Patience) -> bytes:
    file = open_bytes(address, patience)
    try:
        text = file.read(MAX_INDEX_BYTES + 1)
    finally:
        file.close()
    if len(text) > MAX_INDEX_BYTES:
        raise DataError(f"{shown(address)} has over {MAX_INDEX_BYTES:,} bytes; list fewer shards")
    return text


def _beside(address: str, name: str) -> str:
    """The address of a name that is relative to where `address` lies; a URL's query stays."""
    if not is_url(address):
        return str(Path(address).parent / name)
    query = urlsplit(address).query
    return urljoin(address, name) + (f"?{query}" if query else "")


def _placed(index: str, shard: Shard) -> Shard:
    """A shard by its address instead of its name in the index at that address."""
    return replace(shard, name=_beside(index, shard.name))


def _path(address: str) -> str:
    return urlsplit(address).path if is_url(address) else address
