"""Members that belong together are one sample; what is wrong with one does not hurt the next."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from vitkit.data.shards.remote import Local
from vitkit.data.shards.samples import Label, Sample, read_samples, split_key


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """An archive."""
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def read(path: Path, **options: object) -> list[Sample]:
    """All samples."""
    file = Local(path)
    try:
        return list(read_samples(file, max_bytes=100, **options))  # type: ignore[arg-type]
    finally:
        file.close()


@pytest.mark.parametrize(
    ("name", "key", "kind"),
    [
        ("a/b.c/1.jpg", "a/b.c/1", "jpg"),
        ("1.seg.PNG", "1", "png"),
        ("1", "1", ""),
        ("a/.cls", "a/", "cls"),
    ],
)
def test_a_key_ends_at_the_first_dot_of_the_file(name: str, key: str, kind: str) -> None:
    assert split_key(name) == (key, kind)


@pytest.mark.parametrize(
    ("member", "label"),
    [
        ({"1.cls": b"7\n"}, 7),
        ({"1.cls": b"rose"}, "rose"),
        ({"1.json": b'{"label": 3}'}, 3),
        ({"1.json": b'{"label": "3"}'}, "3"),
        ({"1.json": b'{"class": "rose", "x": 1}'}, "rose"),
        ({"1.json": b'{"label": 3}', "1.cls": b"4"}, 4),
    ],
)
def test_labels(member: dict[str, bytes], label: Label, tmp_path: Path) -> None:
    (sample,) = read(packed(tmp_path / "x.tar", {"1.jpg": b"image", **member}))
    assert (sample.image, sample.label, sample.error) == (b"image", label, "")


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"1.jpg": b"x"}, "no label"),
        ({"1.cls": b"1"}, "no image"),
        ({"1.jpg": b"x", "1.cls": b""}, "no label"),
        ({"1.jpg": b"x", "1.cls": b"1" * 5000}, "no label"),
        ({"1.jpg": b"x", "1.json": b"[" * 100_000}, "no label"),
        ({"1.jpg": b"x", "1.json": b"[1]"}, "no label"),
        ({"1.jpg": b"x", "1.json": b'{"label": true}'}, "no label"),
        ({"1.jpg": b"x", "1.json": b'{"label": 1.5}'}, "no label"),
        ({"1.jpg": b"x", "1.json": b'{"label": {"a": 1}}'}, "no label"),
        ({"1.jpg": b"x" * 101, "1.cls": b"1"}, "max_bytes=100"),
        ({"../1.jpg": b"x", "../1.cls": b"1"}, "outside"),
        ({"/etc/1.jpg": b"x", "/etc/1.cls": b"1"}, "outside"),
        ({"C:1.jpg": b"x", "C:1.cls": b"1"}, "outside"),
    ],
)
def test_a_bad_sample_is_counted_and_the_next_is_read(
    members: dict[str, bytes], word: str, tmp_path: Path
) -> None:
    path = packed(tmp_path / "x.tar", {**members, "2.png": b"next", "2.cls": b"2"})
    bad, good = read(path, shard=3)
    assert word in bad.error and bad.image == b""
    assert (good.image, good.label, good.place, good.error) == (b"next", 2, (3, 1), "")


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    members = {f"{n}.{kind}": str(n).encode() for n in range(9) for kind in ("jpg", "cls", "txt")}
    path = packed(tmp_path / "x.tar", members)
    found = read(path, wanted=lambda index: index % 3 == 1)
    assert [(one.place.number, one.image, one.label) for one in found] == [
        (n, str(n).encode(), n) for n in (1, 4, 7)
    ]
    without = read(path, images=False)
    assert [one.image for one in without] == [b""] * 9
    data = path.read_bytes()
    assert [data[one.offset :][: one.size] for one in without] == [b"%d" % n for n in range(9)]


def test_json_of_other_tools(tmp_path: Path) -> None:
    content = json.dumps({"filename": "n01440764_1.JPEG", "cls": 0, "width": 10})
    (sample,) = read(packed(tmp_path / "x.tar", {"n1.JPEG": b"x", "n1.json": content.encode()}))
    assert (sample.label, sample.error) == (0, "")
