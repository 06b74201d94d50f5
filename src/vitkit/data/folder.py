"""The files below a folder, in the order of their names whatever the file system."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vitkit.data.container import HEAD, starts_as_image
from vitkit.data.image import MAX_BYTES, read_file
from vitkit.data.layout import is_hidden, may_be_image
from vitkit.errors import DataError


@dataclass(frozen=True, slots=True)
class Folder:
    """Reads the files below `root` by name; safe to share between threads and processes."""

    root: Path
    max_bytes: int = MAX_BYTES

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            ImageError: it is gone, may not be read, or is larger than `max_bytes`.
        """
        return read_file(self.root / name, max_bytes=self.max_bytes)


def list_folder(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of all files that may be images, and of all folders (`a/b/`), sorted.

    Hidden files, devices, pipes and sockets are passed over, and what `NOT_IMAGES` lists unless it
    begins as an image does. Symbolic links are followed, but no folder is entered twice, so that a
    circle of links ends. A link to nothing is a file that cannot be read.

    Raises:
        DataError: a folder that may not be read.
    """
    names: list[str] = []
    folders: list[str] = []
    entered = {_identity(root)}
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        for entry in sorted(_entries(root, prefix), key=lambda entry: entry.name):
            name = prefix + entry.name
            if not os.path.isdir(entry.path):  # of a link, what it leads to
                if _is_file(entry) and is_taken(entry.path):
                    names.append(name)
            elif (identity := _identity(entry.path)) not in entered:
                entered.add(identity)
                folders.append(f"{name}/")
                waiting.append(f"{name}/")
    return tuple(sorted(names)), tuple(sorted(folders))


def is_taken(path: str | Path) -> bool:
    """Whether a file may be an image: by its name or, where that denies it, by its first bytes."""
    name = os.path.basename(path)
    if is_hidden(name) or may_be_image(name):
        return not is_hidden(name)
    try:
        with open(path, "rb", buffering=0) as file:
            return starts_as_image(file.read(HEAD))
    except OSError:
        return False  # the name is all there is to go by


def _identity(folder: Path | str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _entries(root: Path, prefix: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(root / prefix) as entries:
            yield from (entry for entry in entries if not is_hidden(entry.name))
    except OSError as error:
        raise DataError(
            f"{root / prefix} cannot be read: {error.strerror}; check its permissions"
        ) from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A regular file, or a link to nothing: that is reported when it is read, as a lost file is."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()
