"""The directory of a zip, checked before a member is read.

Two programs may see two archives in one file: `zipfile` looks for the directory before its end
record, others where that record says it is. Where the two differ, the file is refused, so that what
is checked here is what PyTorch reads.
"""

import struct
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO
from zipfile import ZipInfo

from vitkit.errors import WeightsError
from vitkit.weights.containers import MAX_TENSORS, reason

MAX_DIRECTORY_BYTES = 4_000_000  # 500 for each of MAX_TENSORS; 60 and a name or two are usual
MAX_MEMBERS = MAX_TENSORS + 50  # beside its tensors PyTorch writes a handful
# Trained weights deflate by a tenth, only what is still zero vanishes; real bombs begin at 1,000.
MAX_RATIO = 20
FREE_BYTES = 16_000_000  # of zeros, such as a new classifier, whatever the size of the file

ENTRY = b"PK\x01\x02"  # begins each entry of the directory
END = struct.Struct(
    "<4s4H2LH"
)  # signature, disks, counts, size and offset of the directory, comment
LOCATOR = struct.Struct("<4sLQL")  # signature, disk, offset of the large end record, disks
LARGE_END = struct.Struct("<4sQ2H2L4Q")  # the same as END, and its own length, in 64 bits
MAX_COMMENT = 65_535
ENCRYPTED = 0x1


def members(path: Path, *, compressions: Collection[int] = (zipfile.ZIP_STORED,)) -> list[ZipInfo]:
    """What is in a zip of tensors.

    Raises:
        WeightsError: it is damaged, or two readers could see different things in it; it has too
            many members, or members larger than their bytes can be; encryption, or another
            compression.
    """
    _check_end(path)
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, struct.error) as error:
        raise damaged(path, error) from None
    # Compared without regard to case, as PyTorch looks them up.
    if len({member.filename.lower() for member in found}) < len(found):
        raise WeightsError(f"{path} has two members of one name; save it again")
    size = path.stat().st_size
    if sum(member.compress_size for member in found) > size:
        raise WeightsError(f"{path} has members that overlap, as in a zip bomb, and is refused")
    unpacked = sum(member.file_size for member in found)
    if unpacked > MAX_RATIO * size + FREE_BYTES:
        raise WeightsError(
            f"{path} unpacks from {size} bytes to {unpacked}, more than {MAX_RATIO} times as many, "
            "as a zip bomb does, and is refused; save it uncompressed"
        )
    for member in found:
        if member.flag_bits & ENCRYPTED or member.compress_type not in compressions:
            raise WeightsError(
                f"{path} has the member {member.filename[:100]!r} encrypted or in a compression "
                "that is not read; save it uncompressed"
            )
    return found


def damaged(path: Path, error: BaseException) -> WeightsError:
    """The error of a zip that cannot be read."""
    return WeightsError(f"{path} is no whole zip: {reason(error)}; save or fetch it again")


def _check_end(path: Path) -> None:
    """Check the one directory that the end of the file speaks of."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - END.size - MAX_COMMENT))
        at = file.tell()
        tail = file.read()
        place = tail.rfind(b"PK\x05\x06")
        if place < 0 or len(tail) - place < END.size:
            raise WeightsError(
                f"{path} is no whole zip: it has no end, and was cut short; save or fetch it again"
            )
        length, offset = END.unpack_from(tail, place)[5:7]
        end = at + place
        large = _large_end(file, end)
        if large is not None:
            end, length, offset = large
        if offset + length != end:
            raise WeightsError(f"{path} is no whole zip: its directory is elsewhere; save it again")
        if length > MAX_DIRECTORY_BYTES:
            raise WeightsError(
                f"{path} has a directory of {length} bytes, over {MAX_DIRECTORY_BYTES}; "
                "weights have a few thousand tensors at most"
            )
        file.seek(offset)
        count = file.read(length).count(ENTRY)  # at least one for each, whatever the end says
    if count > MAX_MEMBERS:
        raise WeightsError(
            f"{path} has over {MAX_MEMBERS} members; weights have a few thousand tensors at most"
        )


def _large_end(file: IO[bytes], end: int) -> tuple[int, int, int] | None:
    """Place of the 64-bit end record, length and offset of the directory, where there is one."""
    file.seek(max(0, end - LOCATOR.size))
    locator = file.read(LOCATOR.size)
    if not locator.startswith(b"PK\x06\x07"):
        return None
    place = end - LOCATOR.size - LARGE_END.size
    file.seek(max(0, place))
    record = file.read(LARGE_END.size)
    if LOCATOR.unpack(locator)[2] != place or not record.startswith(b"PK\x06\x06"):
        return place, -1, 0  # a directory of no length is nowhere
    length, offset = LARGE_END.unpack(record)[-2:]
    return place, length, offset
