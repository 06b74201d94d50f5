"""Reading over HTTP from front to back, whatever connections do meanwhile."""

import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from vitkit.data.shards.tar import Readable
from vitkit.errors import DataError

SCHEMES = ("http://", "https://")
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # what a server may answer otherwise the next time
ABSENT = (403, 404, 410)
CHUNK = 1 << 20  # bytes read at a time
JUMP = 1 << 22  # bytes that are rather asked past than read and thrown away


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server that fails is tried."""

    tries: int = 10  # in a row, with less than `progress` between them
    wait: float = 0.1  # seconds before the second, then twice as long each time
    longest: float = 8.0  # seconds
    timeout: float = 30.0  # seconds without a byte
    progress: int = 65_536  # bytes that make up for a failure


PATIENCE = Patience()


class Absent(DataError):
    """There is no such file, or it may not be read."""


def is_url(text: str) -> bool:
    """Whether this is read over HTTP."""
    return text.startswith(SCHEMES)


def open_bytes(address: str, patience: Patience = PATIENCE) -> Readable:
    """A file or URL to be read from front to back.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    return Remote(address, patience) if is_url(address) else Local(Path(address))


def shown(url: str) -> str:
    """An address without what may be secret in a URL: user, password, query."""
    if not is_url(url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise DataError(f"{url} is no URL that can be read: {error}; correct it") from None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Local:
    """A file of this machine."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        try:
            self._file: IO[bytes] = path.open("rb")
            self._size = self._file.seek(0, 2)
            self._file.seek(0)
        except OSError as error:
            raise Absent(f"{path} cannot be read: {error.strerror}; check its name") from error

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(min(size, max(self._size - self._file.tell(), 0)))
        except OSError as error:
            raise DataError(f"{self.where} cannot be read: {error.strerror}") from error

    def skip(self, size: int) -> bool:
        return self._file.seek(size, 1) <= self._size

    def close(self) -> None:
        self._file.close()


class Remote:
    """A URL; a connection that breaks is made again, from where it broke, by a range request.

    Raises, from `read` and `skip`:
        DataError: the server refuses, fails too often in a row, or has another file than before.
    """

    def __init__(self, url: str, patience: Patience = PATIENCE) -> None:
        self.url = url
        self.where = shown(url)
        self.patience = patience
        self.position = 0
        self.size: int | None = None  # bytes in all, where the server says so
        self._tag = ""
        self._response: Any = None
        self._failures = 0
        self._since = 0  # bytes since the last failure

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing and (part := self._part(min(missing, CHUNK))):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> bool:
        if size > JUMP and self.size is not None:
            self.close()
            self.position += size
            return self.position <= self.size
        while size and (part := self._part(min(size, CHUNK))):
            size -= len(part)
        return not size

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _part(self, size: int) -> bytes:
        """Some of the next bytes; none at the end."""
        while self.size is None or self.position < self.size:
            try:
                if self._response is None:
                    self._connect()
                part: bytes = self._response.read(size)
                if part or self.size in (None, self.position):
                    self._count(len(part))
                    return part
                self._failed("the connection was closed")
            except DataError:
                raise
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in AGAIN:
                    raise self._refused(error.code, error.reason) from None
                self._failed(f"HTTP {error.code} {error.reason}")
            except (OSError, http.client.HTTPException) as error:
                self._failed(str(getattr(error, "reason", None) or error) or repr(error))
            except ValueError as error:
                raise DataError(f"{self.where} is no URL that can be read: {error}") from None
        return b""

    def _count(self, size: int) -> None:
        self.position += size
        self._since += size
        if self._since >= self.patience.progress:
            self._failures, self._since = 0, 0

    def _connect(self) -> None:
        headers = {"User-Agent": "vitkit", "Accept-Encoding": "identity"}
        if self.position:
            headers["Range"] = f"bytes={self.position}-"
        request = urllib.request.Request(self.url, headers=headers)
        response = urllib.request.urlopen(request, timeout=self.patience.timeout)
        self._response = response
        start, size = _extent(response)
        tag = response.headers.get("ETag", "")
        changed = self.size is not None and size is not None and size != self.size
        if changed or (self._tag and tag and tag != self._tag):
            raise DataError(f"{self.where} changed while it was read; begin anew")
        self.size = self.size if size is None else size
        self._tag = self._tag or tag
        if start > self.position:
            raise DataError(f"{self.where}: the server answers range requests wrongly")
        ahead = self.position - start  # a server that knows no ranges begins at the front
        while ahead:
            part = response.read(min(ahead, CHUNK))
            if not part:
                raise ConnectionError("the connection was closed")
            ahead -= len(part)

    def _failed(self, reason: str) -> None:
        """Wait before the next try, or give up."""
        self.close()
        self._failures += 1
        self._since = 0
        if self._failures >= self.patience.tries:
            raise DataError(
                f"{self.where} failed {self._failures} times at byte {self.position:,}: {reason}; "
                "check the server and the network, and resume"
            )
        time.sleep(min(self.patience.wait * 2 ** (self._failures - 1), self.patience.longest))

    def _refused(self, code: int, reason: str) -> DataError:
        if code == 416:
            return DataError(f"{self.where} has no byte {self.position:,} any more; begin anew")
        kind = Absent if code in ABSENT else DataError
        return kind(f"{self.where} cannot be read: HTTP {code} {reason}; check the address")


def _extent(response: Any) -> tuple[int, int | None]:
    """The first byte that an answer has, and the size of the whole."""
    if response.status == 206:
        span, _, total = response.headers.get("Content-Range", "").partition("/")
        start = span.removeprefix("bytes ").partition("-")[0]
        if not start.isdecimal():
            raise ConnectionError("an answer without its range")
        return int(start), int(total) if total.isdecimal() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None
