import os
from pathlib import Path

import pytest

from vitkit.data.folder import Folder, list_folder
from vitkit.errors import DataError, ImageError


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_lists_what_os_walk_finds_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b/2.jpg", "b/10.jpg", "a b/ü.png", "a/x/y/1", "top.gif")
    names, folders = list_folder(tmp_path)
    walked = [Path(place, name) for place, _, files in os.walk(tmp_path) for name in files]
    assert list(names) == sorted(path.relative_to(tmp_path).as_posix() for path in walked)
    assert folders == ("a b/", "a/", "a/x/", "a/x/y/", "b/")


def test_passes_over_what_is_no_image(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/.hidden.jpg", "a/.cache/1.jpg", "__MACOSX/a/1.jpg", "a/notes.txt")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    os.mkfifo(tmp_path / "a" / "pipe.txt")
    (tmp_path / "a" / "lost.txt").symlink_to("nowhere")
    assert list_folder(tmp_path)[0] == ("a/1.jpg",)


def test_reads_by_name(tmp_path: Path) -> None:
    folder = Folder(make(tmp_path, "a/1.jpg"), max_bytes=7)
    assert folder.read("a/1.jpg") == b"a/1.jpg"
    with pytest.raises(ImageError):
        Folder(tmp_path, max_bytes=6).read("a/1.jpg")
    with pytest.raises(ImageError):
        folder.read("a/2.jpg")


def test_links_to_files_inside_are_taken(tmp_path: Path) -> None:
    make(tmp_path, "data/a/1.jpg", "data/b/1.jpg")
    (tmp_path / "data/a/2.jpg").symlink_to("../b/1.jpg")
    (tmp_path / "data/a/lost.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "door").symlink_to("data")
    assert list_folder(tmp_path / "door")[0] == ("a/1.jpg", "a/2.jpg", "a/lost.jpg", "b/1.jpg")


def test_links_are_followed_wherever_they_lead(tmp_path: Path) -> None:
    make(tmp_path, "data/a/1.jpg", "disk/b/2.jpg", "disk/3.jpg")
    (tmp_path / "data/a/3.jpg").symlink_to("../../disk/3.jpg")
    (tmp_path / "data/b").symlink_to("../disk/b")
    (tmp_path / "data/b-again").symlink_to("../disk/b")
    names, folders = list_folder(tmp_path / "data")
    assert names == ("a/1.jpg", "a/3.jpg", "b/2.jpg")
    assert folders == ("a/", "b/")


def test_circles_end(tmp_path: Path) -> None:
    make(tmp_path, "data/a/1.jpg", "disk/b/2.jpg")
    (tmp_path / "data/itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "data/out").symlink_to("../disk")
    (tmp_path / "disk/back").symlink_to("../data/a/..")
    # The link to itself is for its reader to complain about.
    assert list_folder(tmp_path / "data")[0] == ("a/1.jpg", "itself.jpg", "out/b/2.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg")
    (tmp_path / "a").chmod(0)
    with pytest.raises(DataError, match="permission"):
        list_folder(tmp_path)
    (tmp_path / "a").chmod(0o700)
