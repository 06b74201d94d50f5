"""The members of a `.tar`, one after the other, without trusting what its headers say.

`tarfile` reads extended headers whole, however large they claim to be, and follows what they point
to. Here nothing is read that is over a limit, and nothing is ever written.
"""

from dataclasses import dataclass
from typing import NoReturn, Protocol

from vitkit.errors import DataError

BLOCK = 512  # bytes
MAX_NAME_BYTES = 16_384
MAX_PAX_BYTES = 1_048_576
FILES = (b"0", b"\0", b"7")
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders
DESCRIPTIONS = (b"K", b"g")  # of a link's target, and of all that follows: not needed


class Readable(Protocol):
    """Bytes from front to back."""

    where: str  # what errors call it

    def read(self, size: int) -> bytes:
        """The next bytes: as many as asked for, unless the end comes before."""
        ...

    def skip(self, size: int) -> bool:
        """Pass bytes over; False if the end comes before."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive."""

    name: str
    offset: int  # of its first byte
    size: int  # bytes


class Tar:
    """Reads an archive member by member: ustar, GNU and pax, not compressed.

    Raises, from `next` and `data`:
        DataError: it is damaged, cut short, compressed, or holds a sparse file.
    """

    def __init__(self, file: Readable) -> None:
        self.file = file
        self.position = 0  # where the file stands
        self._rest = 0  # bytes until the next header

    def next(self) -> Member | None:
        """The next file; None at the end. Links and folders are passed over."""
        name, size_given = "", None
        while (header := self._header()) is not None:
            kind, size = header[156:157], self._size(header)
            if kind == b"L":
                name = _text(self._own(size, MAX_NAME_BYTES, "name"))
            elif kind in (b"x", b"X"):
                pax = self._pax(self._own(size, MAX_PAX_BYTES, "header"))
                name = pax.get("path", name)
                size_given = pax.get("size", size_given)
            elif kind in FILES and not (name or _short_name(header)).endswith("/"):
                if size_given is not None:
                    size = self._whole(size_given)
                self._rest = size + -size % BLOCK
                return Member(name or _short_name(header), self.position, size)
            elif kind in DESCRIPTIONS:
                self._rest = size + -size % BLOCK
            elif kind in FILES or kind in WITHOUT_DATA:
                name, size_given = "", None
            else:
                self._damaged(f"holds a member of kind {kind!r}, such as a sparse file")
        return None

    def data(self, size: int) -> bytes:
        """The first bytes of the member that `next` gave last."""
        data = self.file.read(size)
        if len(data) < size:
            self._short()
        self.position += size
        self._rest -= size
        return data

    def _header(self) -> bytes | None:
        if self._rest:
            if not self.file.skip(self._rest):
                self._short()
            self.position += self._rest
            self._rest = 0
        header = self.file.read(BLOCK)
        if not header and self.position or header == bytes(BLOCK):
            return None
        if header.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
            raise DataError(f"{self.file.where} is compressed; unpack it to a plain .tar")
        if len(header) < BLOCK:
            self._short()
        if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _octal(header[148:156]):
            self._damaged("has no member where one should begin")
        self.position += BLOCK
        return header

    def _size(self, header: bytes) -> int:
        field = header[124:136]
        if field[0] & 0x80:
            return self._whole(int.from_bytes(field, signed=True) + (1 << 95))
        return self._whole(_octal(field))

    def _whole(self, size: int | str | None) -> int:
        if isinstance(size, str):
            size = int(size) if size.isdecimal() and len(size) < 20 else None
        if size is None or not 0 <= size < 1 << 62:
            self._damaged("has a member whose size is no number")
        return size

    def _own(self, size: int, limit: int, what: str) -> bytes:
        """The content of an entry that describes the next one."""
        if size > limit:
            self._damaged(f"has a {what} of {size:,} bytes, over {limit:,}")
        self._rest = size + -size % BLOCK
        return self.data(size)

    def _pax(self, records: bytes) -> dict[str, str]:
        """`27 path=some/longer/name\\n` and so on (POSIX.1-2001, pax)."""
        found: dict[str, str] = {}
        at = 0
        while at < len(records):
            digits, _, _ = records[at : at + 20].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            key, equals, value = records[at : at + length][len(digits) + 1 :].partition(b"=")
            if not equals or not value.endswith(b"\n") or at + length > len(records):
                self._damaged("has an extended header that is malformed")
            if key.startswith(b"GNU.sparse"):
                self._damaged("holds a sparse file")
            found[_text(key)] = _text(value[:-1])
            at += length
        return found

    def _short(self) -> NoReturn:
        raise DataError(
            f"{self.file.where} ends too early, inside or after the member before byte "
            f"{self.position:,}; fetch or pack it again"
        )

    def _damaged(self, how: str) -> NoReturn:
        raise DataError(
            f"{self.file.where} {how}, at byte {self.position:,}; fetch or pack it again"
        )


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if all(digit in b"01234567" for digit in digits) else None


def _short_name(header: bytes) -> str:
    name = _text(header[:100].partition(b"\0")[0])
    if header[257:263] == b"ustar\0":
        prefix = _text(header[345:500].partition(b"\0")[0])
        return f"{prefix}/{name}" if prefix else name
    return name


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "surrogateescape")
