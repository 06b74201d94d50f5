"""Shards of this machine are a source like any other, and one of its own kind in sequence."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit.data.shards.order import Piece
from vitkit.data.shards.source import open_shards
from vitkit.data.sources import Limits, open_source
from vitkit.errors import DataError, ImageError


def png(grey: int) -> bytes:
    memory = io.BytesIO()
    Image.new("RGB", (4, 4), (grey, grey, grey)).save(memory, "PNG")
    return memory.getvalue()


def write(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def test_any_order_has_the_same_images_as_the_files(colours: Path, colour_shards: Path) -> None:
    files, shards = open_source(colours), open_source(colour_shards)
    assert shards.classes == files.classes and len(shards.samples) == len(files.samples) == 60
    expected = {
        name.name.removesuffix(".png"): (name.label, files.read(i))
        for i, name in enumerate(files.samples)
    }
    names = [sample.name for sample in shards.samples]
    assert names == sorted(names)
    for index, sample in enumerate(shards.samples):
        label, image = expected[sample.name.partition("/")[2]]
        assert sample.label == label
        np.testing.assert_array_equal(shards.read(index), image)


def test_without_an_index_labels_are_found_by_scanning(tmp_path: Path) -> None:
    write(tmp_path / "train/0.tar", {"a.png": png(1), "a.cls": b"rose", "b.png": png(2)})
    write(tmp_path / "val/0.tar", {"a.png": png(3), "a.cls": b"lily"})
    source = open_source(tmp_path)
    assert source.classes == ("lily", "rose")
    assert [(s.name, s.label, s.split) for s in source.samples] == [
        ("train/0.tar/a", 1, "train"),
        ("train/0.tar/b", 0, "train"),  # it has no label: it cannot be read
        ("val/0.tar/a", 0, "val"),
    ]
    assert source.read(0)[0, 0, 0] == 1
    with pytest.raises(ImageError, match="no label"):
        source.read(1)
    sequence = open_shards(str(tmp_path))
    assert sequence.classes == source.classes
    assert [(one.samples, one.counts) for one in sequence.shards] == [(2, {1: 1}), (1, {0: 1})]
    assert sequence.trained_on == 2 and sequence.splits == {"train", "val"}
    assert [int(image[0, 0, 0]) for image in sequence.some(5)] == [1]


def test_numbers_are_classes_in_order_of_numbers(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", {"a.png": png(1), "a.cls": b"11", "b.png": png(2), "b.cls": b"2"})
    sequence = open_shards(str(tmp_path))
    assert sequence.classes == tuple(map(str, range(12)))
    samples = list(sequence.part(Piece(0)))
    assert [sequence.number_of(sample) for sample in samples] == [11, 2]
    named = open_shards(str(tmp_path), classes=[f"class {n}" for n in range(5)])
    assert [named.number_of(sample) for sample in named.part(Piece(0))] == [None, 2]
    assert named.shards[0].counts == {2: 1}


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"a.png": b"x", "a.cls": b"1", "b.png": b"x", "b.cls": b"rose"}, "numbers as labels"),
        ({"a.png": b"x"}, "no sample with an image and a label"),
        ({"a.png": b"x", "a.cls": b"99999999"}, "are no classes"),
    ],
)
def test_labels_that_cannot_be(members: dict[str, bytes], word: str, tmp_path: Path) -> None:
    write(tmp_path / "0.tar", members)
    for opener in (open_source, lambda path: open_shards(str(path))):
        with pytest.raises(DataError, match=word):
            opener(tmp_path)


def test_a_key_twice_is_an_error_in_any_order(tmp_path: Path) -> None:
    members = {"a.png": png(1), "a.cls": b"1", "b.png": png(1), "b.cls": b"0"}
    write(tmp_path / "0.tar", members)
    data = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(data[: 512 * 8] + data)
    with pytest.raises(DataError, match="key 'a' twice"):
        open_source(tmp_path)


def test_an_image_over_the_limit_is_one_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", {"a.bmp": bytes(2000), "a.cls": b"1", "b.png": png(1), "b.cls": b"0"})
    source = open_source(tmp_path, limits=Limits(max_bytes=1000))
    with pytest.raises(ImageError, match="max_bytes=1,000"):
        source.read(0)
    assert source.read(1).shape == (4, 4, 3)


def test_a_shard_that_shrank_is_an_unreadable_image(colour_shards: Path, tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    path.write_bytes((colour_shards / path.name).read_bytes())
    source = open_source(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ImageError, match="ends too early"):
        source.read(0)


def test_urls_are_for_training_only() -> None:
    for data in ("http://host/a.tar", "hf-datasets:owner/name"):
        with pytest.raises(DataError, match="for training only"):
            open_source(data)
