"""A file is there whole or not at all."""

import os
from pathlib import Path

import pytest

from vitkit.whole_file import replacing, write


def test_it_replaces_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write(path, "one\n")
    write(path, "zwei ü\n")
    assert path.read_bytes() == "zwei ü\n".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_its_mode_is_what_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "a.txt", "one")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_older_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write(path, "one")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "one"
        raise error
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_share_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
