"""The files inside a zip, read one by one without unpacking it and without trusting its headers."""

import io
import os
import stat
import struct
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import normpath
from zipfile import ZipInfo

import numpy as np
from numpy.typing import NDArray

from vitkit.data.container import HEAD, starts_as_image
from vitkit.data.image import MAX_BYTES
from vitkit.data.layout import leaves, lies_hidden, may_be_image
from vitkit.errors import DataError, ImageError

MAX_TOTAL_BYTES = 20_000_000_000  # of all members, unpacked
MAX_MEMBERS = 5_000_000
MAX_DIRECTORY_BYTES = 1_000_000_000  # 200 for each of so many members; 100 are usual

LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field
ENTRY = b"PK\x01\x02"  # begins each entry of the directory
ENCRYPTED = 0x1
DEFLATED_HEAD = 1024  # bytes that surely unpack to `HEAD`: no table of codes is longer


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """Reads the members of a zip by name; safe to share between threads and processes.

    Every read opens the file anew: that costs microseconds, and there is no position in the file to
    share and no lock to wait for.
    """

    path: Path
    names: tuple[str, ...]  # members that may be images, sorted
    folders: tuple[str, ...]  # `a/b/`, sorted
    # Of every name: position, stored bytes, real bytes, CRC-32, method. A ZipInfo has 15 times it.
    table: NDArray[np.int64] = field(repr=False)
    max_bytes: int = MAX_BYTES  # of one member, unpacked

    def read(self, name: str) -> bytes:
        """The content of one member.

        Raises:
            ImageError: it is damaged, too large, or larger than its header says.
        """
        row = bisect_left(self.names, name)
        offset, stored, size, crc, method = (int(value) for value in self.table[row])
        if max(size, stored) > self.max_bytes:
            raise ImageError(
                f"has {max(size, stored)} bytes in {self.path.name}, more than "
                f"max_bytes={self.max_bytes}; make it smaller or raise the limit"
            )
        try:
            with io.FileIO(self.path) as file:
                data = _stored(file, offset, stored)
        except (OSError, EOFError) as error:
            raise ImageError(f"cannot be read from {self.path.name}: {error}") from error
        except ValueError as error:
            raise ImageError(f"is damaged in {self.path.name}: {error}") from error
        data = _inflate(data, size) if method == zipfile.ZIP_DEFLATED else data
        if len(data) != size or zlib.crc32(data) != crc:
            raise ImageError(f"is damaged in {self.path.name}: length or checksum is wrong")
        return data


def open_archive(
    path: Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_total_bytes: int = MAX_TOTAL_BYTES,
    max_members: int = MAX_MEMBERS,
) -> Archive:
    """Read the directory of a zip; no member is unpacked, archives inside it are not opened.

    `max_bytes` bounds one image, `max_total_bytes` all members together, both unpacked.

    Raises:
        DataError: not a zip, or a damaged one; a member whose name leads outside the archive or
            comes twice; a link; encryption; a compression other than deflate; too much of anything.
    """
    try:
        with _Bounded(path, max_members) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except DataError:
        raise
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise DataError(f"{path} is not a readable zip: {error}; make or fetch it again") from error
    total = sum(member.file_size for member in members)
    if total > max_total_bytes:
        largest = max(members, key=lambda member: member.file_size)
        raise DataError(
            f"{path} unpacks to {total} bytes, more than max_total_bytes={max_total_bytes} "
            f"(its largest member is {largest.filename!r}); unpack it into a folder"
        )
    for member in members:
        if reason := _refusal(member):
            raise DataError(f"{path}: member {member.filename!r} {reason}")
    return _archive(path, members, max_bytes)


class _Bounded(io.BufferedReader):
    """A zip for `zipfile` to read the directory of, which it does in one piece.

    It makes an object of every entry, whatever the end of the file says their number is. Each
    begins with a signature, so the signatures are at least as many: they are counted first.
    """

    def __init__(self, path: Path, max_members: int) -> None:
        super().__init__(io.FileIO(path))
        self._path = path
        self._max_members = max_members

    def read(self, size: int | None = -1, /) -> bytes:
        if size and size > MAX_DIRECTORY_BYTES:  # -1 is for the last bytes of the file only
            raise DataError(
                f"{self._path} has a directory of {size} bytes, over {MAX_DIRECTORY_BYTES}; "
                "pack it as several zips, or unpack it into a folder"
            )
        data = super().read(size)
        if data.count(ENTRY) > self._max_members:
            raise DataError(
                f"{self._path} has over max_members={self._max_members} members; pack it as "
                "several zips, or unpack it into a folder"
            )
        return data


def _refusal(member: ZipInfo) -> str:
    """Why an archive with this member is not opened, or nothing."""
    if leaves(member.filename) or "\\" in member.filename:
        return (
            "leads outside the archive or has backslashes; make the zip again with relative names"
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a symbolic link; make the zip again with the file itself"
    if member.flag_bits & ENCRYPTED:
        return "is encrypted; make the zip again without a password"
    if member.is_dir() or not may_be_image(_plain(member)):
        return ""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"has compression {member.compress_type}; make the zip again with deflate"
    return ""


def _plain(member: ZipInfo) -> str:
    """The name without `./` and double slashes."""
    name = member.filename
    return normpath(name) if name.startswith("./") or "/./" in name or "//" in name else name


def _archive(path: Path, members: Sequence[ZipInfo], max_bytes: int) -> Archive:
    files = {}
    with io.FileIO(path) as file:
        for member in members:
            name = _plain(member)
            if member.is_dir() or not _is_taken(file, member, name):
                continue
            if name in files:
                raise DataError(f"{path}: member {name!r} is there twice; make the zip again")
            files[name] = member
    names = tuple(sorted(files))
    folders = {f"{_plain(member).rstrip('/')}/" for member in members if member.is_dir()}
    rows = [
        (
            member.header_offset,
            member.compress_size,
            member.file_size,
            member.CRC,
            member.compress_type,
        )
        for member in map(files.__getitem__, names)
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 5)
    listed = tuple(sorted(filter(may_be_image, folders)))
    return Archive(path, names, listed, table, max_bytes)


def _is_taken(file: io.FileIO, member: ZipInfo, name: str) -> bool:
    """Whether a member may be an image: as `folder.is_taken` says of a file."""
    if lies_hidden(name) or may_be_image(name):
        return not lies_hidden(name)
    packed = member.compress_type == zipfile.ZIP_DEFLATED
    if not packed and member.compress_type != zipfile.ZIP_STORED:
        return False
    try:
        size = min(member.compress_size, DEFLATED_HEAD)
        head = _stored(file, member.header_offset, size)
        head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, HEAD) if packed else head
    except (OSError, EOFError, ValueError, zlib.error):
        return False
    return starts_as_image(head)


def _stored(file: io.FileIO, offset: int, count: int) -> bytes:
    """The first bytes of the member whose own header is at `offset`, as they are stored.

    Raises:
        ValueError: there is no header.
        EOFError, OSError: the file ends, or cannot be read.
    """
    file.seek(offset)
    signature, *lengths = LOCAL_HEADER.unpack(_read_exactly(file.fileno(), 30))
    if signature != b"PK\x03\x04":
        raise ValueError("no member begins there")
    file.seek(sum(lengths), os.SEEK_CUR)
    return _read_exactly(file.fileno(), count)


def _read_exactly(file: int, count: int) -> bytes:
    data = os.read(file, count)
    while len(data) < count:
        more = os.read(file, count - len(data))
        if not more:
            raise EOFError("the archive ends too early")
        data += more
    return data


def _inflate(data: bytes, size: int) -> bytes:
    """Unpack, but never more than a byte beyond the size promised."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error as error:
        raise ImageError(f"is damaged: {error}") from error
