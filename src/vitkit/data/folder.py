"""The files below a folder, in the order of their names whatever the file system."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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

    Hidden files, what `NOT_IMAGES` lists, and devices, pipes and sockets are passed over. A
    symbolic link is taken where it leads to a file below `root`. `root` itself may be a link.

    Raises:
        DataError: a folder that may not be read, or a link that leads elsewhere or to a folder.
    """
    names: list[str] = []
    folders: list[str] = []
    top = os.path.realpath(root)
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        for entry in _entries(root, prefix):
            name = prefix + entry.name
            link = entry.is_symlink()
            is_folder = os.path.isdir(entry.path) if link else entry.is_dir()
            if not is_folder and not (may_be_image(entry.name) and _is_file(entry)):
                continue
            if link:
                _check_link(entry.path, is_folder, top)
            if is_folder:
                folders.append(f"{name}/")
                waiting.append(f"{name}/")
            else:
                names.append(name)
    return tuple(sorted(names)), tuple(sorted(folders))


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


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _check_link(path: str, is_folder: bool, top: str) -> None:
    target = os.path.realpath(path)
    if is_folder or not _within(target, top):
        kind = "a folder" if is_folder else "a file outside the data"
        raise DataError(
            f"{path} is a link to {kind}, {target}; put a copy in its place, or remove it"
        )
