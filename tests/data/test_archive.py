import os
import pickle
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipInfo

import pytest

from vitkit.data.archive import open_archive
from vitkit.errors import DataError, ImageError

JPEG = bytes(range(256)) * 8


def make(path: Path, *members: str | ZipInfo, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for member in members:
            archive.writestr(member, JPEG + str(member).encode(), method)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_what_zipfile_reads(tmp_path: Path, method: int) -> None:
    path = make(tmp_path / "x.zip", "b/2.jpg", "b/10.jpg", "a b/ü.png", "a/1", method=method)
    archive = open_archive(path)
    assert archive.names == ("a b/ü.png", "a/1", "b/10.jpg", "b/2.jpg")
    with zipfile.ZipFile(path) as reference:
        for name in archive.names:
            assert archive.read(name) == reference.read(name)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_content_counts_where_the_extension_denies_an_image(tmp_path: Path, method: int) -> None:
    files = {
        "a/photo.db": b"\x89PNG\r\n\x1a\n" + os.urandom(50_000),
        "a/notes.txt": b"BM is no bitmap",
        "a/empty.txt": b"",
        "a/.photo.db": b"\x89PNG\r\n\x1a\n",
    }
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    archive = open_archive(tmp_path / "x.zip")
    assert archive.names == ("a/photo.db",)
    assert archive.read("a/photo.db") == files["a/photo.db"]


class Pipe:
    """What cannot go back to complete a header."""

    def __init__(self, file: BinaryIO) -> None:
        self.write, self.flush = file.write, file.flush


def test_reads_after_a_prefix_and_with_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with open(path, "wb") as file, zipfile.ZipFile(Pipe(file), "w", 8) as archive:
        with archive.open("a/1.jpg", "w", force_zip64=True) as member:
            member.write(JPEG)
        assert archive.infolist()[0].flag_bits & 8  # sizes follow the data
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert open_archive(path).read("a/1.jpg") == JPEG


def test_lists_files_and_folders(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", "./a/1.jpg", "a//2.jpg", "__MACOSX/a/1.jpg", "a/notes.txt")
    with zipfile.ZipFile(path, "a") as archive:
        for folder in ("empty/", ".git/", "./a/"):
            archive.writestr(folder, "")
    archive = open_archive(path)
    assert (archive.names, archive.folders) == (("a/1.jpg", "a/2.jpg"), ("a/", "empty/"))
    assert archive.read("a/2.jpg").startswith(JPEG)


def link(name: str) -> ZipInfo:
    info = ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "told"),
    [
        ("../x.jpg", "leads outside"),
        ("a/../../x.jpg", "leads outside"),
        ("/etc/x.jpg", "leads outside"),
        ("C:/x.jpg", "leads outside"),
        ("a\\x.jpg", "backslashes"),
        (link("a/x.jpg"), "is a symbolic link"),
    ],
)
def test_dangerous_members_are_refused(tmp_path: Path, member: str | ZipInfo, told: str) -> None:
    path = make(tmp_path / "x.zip", "a/1.jpg", member)
    with pytest.raises(DataError, match="x.jpg") as error:
        open_archive(path)
    assert told in str(error.value) and "\n" not in str(error.value)


def patch_directory(path: Path, field: int, value: bytes) -> None:
    """Overwrite a field of the first entry of the central directory."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02") + field
    data[start : start + len(value)] = value
    path.write_bytes(data)


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", "a/1.jpg")
    patch_directory(path, 8, b"\x01")
    with pytest.raises(DataError, match=r"'a/1.jpg' is encrypted"):
        open_archive(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(DataError, match="make the zip again with deflate"):
        open_archive(make(tmp_path / "x.zip", "a/1.jpg", method=method))


def test_names_that_come_twice_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", "a/1.jpg", "./a/1.jpg")
    with pytest.raises(DataError, match="'a/1.jpg' is there twice"):
        open_archive(path)


def test_limits(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", "a/1.jpg", "a/2.jpg", "notes.txt")
    size = len(JPEG) + len("a/1.jpg")
    total = 2 * size + len(JPEG) + len("notes.txt")
    open_archive(path, max_bytes=size, max_total_bytes=total, max_members=3)
    with pytest.raises(ImageError, match=f"has {size} bytes in x.zip, more than"):
        open_archive(path, max_bytes=size - 1).read("a/1.jpg")
    told = f"unpacks to {total} bytes.*'notes.txt'.*; unpack it into a folder"
    with pytest.raises(DataError, match=told):
        open_archive(path, max_total_bytes=total - 1)
    with pytest.raises(DataError, match="over max_members=2 members"):
        open_archive(path, max_members=2)


def crowd(path: Path, count: int, told: int) -> Path:
    """A zip of so many equal entries, whose end tells of another number."""
    make(path, "a.txt")
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = data[start:end] * count
    tail = struct.pack("<4s4xHHIIH", b"PK\x05\x06", told, told, len(entries), start, 0)
    path.write_bytes(data[:start] + entries + tail)
    return path


@pytest.mark.parametrize("told", [1, 60_000])
def test_too_many_members_are_refused_before_they_take_memory(tmp_path: Path, told: int) -> None:
    path = crowd(tmp_path / "x.zip", 60_000, told)  # 3 MB, but 30 MB as objects
    assert open_archive(crowd(tmp_path / "y.zip", 60, told), max_members=60).names == ()
    tracemalloc.start()
    with pytest.raises(DataError, match="over max_members=59999 members; pack it as several"):
        open_archive(path, max_members=59_999)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000


def test_too_large_a_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = crowd(tmp_path / "x.zip", 60_000, 1)
    size = 60_000 * (46 + len("a.txt"))
    monkeypatch.setattr("vitkit.data.archive.MAX_DIRECTORY_BYTES", size)
    assert open_archive(path).names == ()
    monkeypatch.setattr("vitkit.data.archive.MAX_DIRECTORY_BYTES", size - 1)
    tracemalloc.start()
    with pytest.raises(DataError, match=f"directory of {size} bytes, over {size - 1}"):
        open_archive(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000


def test_a_header_that_lies_about_the_size_unpacks_no_more(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.jpg", bytes(10_000_000))
    patch_directory(path, 24, struct.pack("<I", 1000))
    tracemalloc.start()
    with pytest.raises(ImageError, match="length or checksum"):
        open_archive(path).read("a/1.jpg")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def spoil_content(data: bytearray) -> None:
    data[40 + len("a/1.jpg")] ^= 0xFF


def spoil_signature(data: bytearray) -> None:
    data[0] = 0


def spoil_name_length(data: bytearray) -> None:
    data[26:28] = b"\xff\xff"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("spoil", [spoil_content, spoil_signature, spoil_name_length])
def test_damaged_members_are_told_when_read(
    tmp_path: Path, method: int, spoil: Callable[[bytearray], None]
) -> None:
    path = make(tmp_path / "x.zip", "a/1.jpg", method=method)
    data = bytearray(path.read_bytes())
    spoil(data)
    path.write_bytes(data)
    with pytest.raises(ImageError):
        open_archive(path).read("a/1.jpg")


def test_a_zip_that_vanishes_is_told_when_read(tmp_path: Path) -> None:
    archive = open_archive(make(tmp_path / "x.zip", "a/1.jpg"))
    os.remove(archive.path)
    with pytest.raises(ImageError, match="cannot be read"):
        archive.read("a/1.jpg")


@pytest.mark.parametrize("keep", [0, 10, 100, -30, -1])
def test_damaged_zips_are_refused(tmp_path: Path, keep: int) -> None:
    path = make(tmp_path / "x.zip", "a/1.jpg", "b/1.jpg")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="not a readable zip"):
        open_archive(path)


def test_every_single_spoilt_byte_is_our_error_or_harmless(tmp_path: Path) -> None:
    good = make(tmp_path / "x.zip", "a/1.jpg", method=zipfile.ZIP_STORED).read_bytes()
    path = tmp_path / "spoilt.zip"
    for at in [*range(40), *range(len(good) - 80, len(good))]:
        for flip in (0xFF, 0x01):
            path.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
            try:
                archive = open_archive(path)
                content = [archive.read(name) for name in archive.names]
            except (DataError, ImageError):
                continue
            assert content in ([], [JPEG + b"a/1.jpg"])


def test_threads_and_processes_share_it(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", *(f"a/{number}.jpg" for number in range(200)))
    archive = pickle.loads(pickle.dumps(open_archive(path)))
    names = [*archive.names] * 5
    with ThreadPoolExecutor(4) as pool:
        for name, content in zip(names, pool.map(archive.read, names), strict=True):
            assert content == JPEG + name.encode()
