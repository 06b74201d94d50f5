"""Files that appear whole or not at all, whatever happens while they are written."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside `path` to write to; what is there then gets the name `path`.

    If writing fails, nothing is left behind and an older file stays as it was. A crash leaves the
    older one too. The bytes are on the disk before the name changes. Who may read it is for the
    umask to say, as of any new file.
    """
    temporary = path.absolute().with_name(f".{path.name}.{secrets.token_hex(8)}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors puts a file of its own there, for the owner alone
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8", errors="surrogateescape", newline="")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of bytes."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
