"""Archives are read as tarfile reads them, and hostile ones not at all."""

import io
import random
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from vitkit.data.shards.remote import Local
from vitkit.data.shards.tar import MAX_NAME_BYTES, MAX_PAX_BYTES, Tar
from vitkit.errors import DataError

NAMES = ("a.jpg", "deep/er/b.cls", "n" * 90 + ".png", "l/" + "o" * 120 + "/ng.jpg", "ü/ß 1.jpg")


def archive(format: int = tarfile.GNU_FORMAT) -> bytes:
    """Five files of 0 to 2000 bytes, between them folders and links."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=format) as file:
        for number, name in enumerate(NAMES):
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd" + "x" * 19 * number
            info = tarfile.TarInfo(name)
            info.size = 500 * number
            for entry in (folder, link):
                file.addfile(entry)
            file.addfile(info, io.BytesIO(bytes([number]) * info.size))
    return memory.getvalue()


def listed(data: bytes, path: Path) -> list[tuple[str, bytes]]:
    """Name and content of every member."""
    path.write_bytes(data)
    found = []
    with closing(Local(path)) as file:
        tar = Tar(file)
        while (member := tar.next()) is not None:
            assert data[member.offset :][: member.size] == (content := tar.data(member.size))
            found.append((member.name, content))
    return found


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_tarfile_writes(format: int, tmp_path: Path) -> None:
    data = archive(format)
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        expected = [
            (info.name, file.extractfile(info).read())  # type: ignore[union-attr]
            for info in file
            if info.isreg()
        ]
    assert [name for name, _ in expected] == list(NAMES)
    assert listed(data, tmp_path / "x.tar") == expected


def test_members_that_are_not_read_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(archive())
    names = []
    with closing(Local(path)) as file:
        tar = Tar(file)
        while (member := tar.next()) is not None:
            names.append(member.name)
            tar.data(min(member.size, 3))
    assert names == list(NAMES)


def test_every_cut_is_noticed_or_falls_between_members(tmp_path: Path) -> None:
    data, path = archive(), tmp_path / "x.tar"
    whole = listed(data, path)
    noticed = 0
    for size in range(0, len(data.rstrip(b"\0")), 128):
        try:
            found = listed(data[:size], path)
        except DataError as error:
            noticed += 1
            assert "too early" in str(error) and "\n" not in str(error)
        else:
            assert size and size % 512 == 0
            assert found == whole[: len(found)]
    assert noticed > 30


def header(name: str = "a.jpg", *, kind: bytes = b"0", size: bytes = b"0" * 11 + b"\0") -> bytes:
    """A header with a right checksum."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes) -> bytes:
    """An extended header."""
    size = b"%011o\0" % len(records)
    return header(kind=b"x", size=size) + records + bytes(-len(records) % 512)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "too early"),
        (b"not an archive" * 100, "no member"),
        (b"\x1f\x8b" + bytes(600), "compressed"),
        (header(size=b"\x80" + (10**15).to_bytes(11)), "too early"),
        (header(size=b"\xff" * 12), "no number"),
        (header(size=b"7777777777\0\0"), "too early"),
        (header(size=b"12x45678901\0"), "no number"),
        (header(kind=b"S"), "sparse"),
        (header(kind=b"L", size=b"%011o\0" % (MAX_NAME_BYTES + 1)), "over"),
        (header(kind=b"x", size=b"%011o\0" % (MAX_PAX_BYTES + 1)), "over"),
        (pax(b"22 GNU.sparse.major=1\n"), "sparse"),
        (pax(b"99999 path=x\n"), "malformed"),
        (pax(b"0 path=x\n"), "malformed"),
        (pax(b"path\n"), "malformed"),
        (pax(b"14 size=-1000\n") + header(), "no number"),
        (pax(b"14 size=10e99\n") + header(), "no number"),
    ],
)
def test_what_is_hostile_is_one_line(data: bytes, word: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=word) as caught:
        listed(data, tmp_path / "x.tar")
    assert "\n" not in str(caught.value) and "x.tar" in str(caught.value)


def test_flipped_bytes_raise_nothing_else(tmp_path: Path) -> None:
    data, path = archive(tarfile.PAX_FORMAT), tmp_path / "x.tar"
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(3):
            changed[draw.randrange(len(data))] = draw.randrange(256)
        try:
            listed(bytes(changed), path)
        except DataError:
            refused += 1
    assert refused > 50
