"""What was packed is what there was, to the byte."""

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit.data.image import decode
from vitkit.data.shards import write
from vitkit.data.shards.index import NAME
from vitkit.data.shards.write import pack
from vitkit.data.sources import open_source
from vitkit.errors import DataError


def members(folder: Path) -> dict[str, bytes]:
    """Content of every member of all shards, as tarfile reads them."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as file:
            for info in file:
                assert info.name not in found
                found[info.name] = file.extractfile(info).read()  # type: ignore[union-attr]
    return found


def test_every_image_is_there_unchanged_with_its_class(colours: Path, colour_shards: Path) -> None:
    found = members(colour_shards)
    files = {str(path.relative_to(colours)): path for path in colours.rglob("*.png")}
    assert {name for name in found if name.endswith(".png")} == set(files)
    for name, path in files.items():
        assert found[name] == path.read_bytes()
        label = ("blue", "green", "red").index(path.parent.name)
        assert found[name.replace(".png", ".cls")] == str(label).encode()
    assert len(found) == 2 * len(files) == 120


def test_the_index_counts_and_has_checksums(colour_shards: Path) -> None:
    index = json.loads((colour_shards / NAME).read_text())
    assert sum(shard["samples"] for shard in index["shards"]) == 60
    assert len(index["shards"]) > 3
    for shard in index["shards"]:
        data = (colour_shards / shard["name"]).read_bytes()
        assert len(data) == shard["bytes"] <= 20_000
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        assert sum(shard["counts"].values()) == shard["samples"]
    assert {path.suffix for path in colour_shards.iterdir()} == {".tar", ".json"}


def test_classes_are_mixed_and_the_same_data_give_the_same_bytes(
    colours: Path, colour_shards: Path, tmp_path: Path
) -> None:
    first = json.loads((colour_shards / NAME).read_text())["shards"][0]
    assert len(first["counts"]) == 3
    pack(open_source(colours), tmp_path / "again", shard_bytes=20_000)
    for path in colour_shards.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_splits_have_shards_of_their_own(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    for name in ("train/a/1", "train/b/2", "val/a/3", "val/b/4", "test/a/5", "test/b/6"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image + int(name[-1])).save(tmp_path / "in" / f"{name}.png")
    packed = pack(open_source(tmp_path / "in"), tmp_path / "all")
    assert [(one.name, one.split, one.samples) for one in packed.index.shards] == [
        ("train-000000.tar", "train", 2),
        ("val-000000.tar", "val", 2),
        ("test-000000.tar", "test", 2),
    ]
    only = pack(open_source(tmp_path / "in"), tmp_path / "val", split="val")
    assert [one.split for one in only.index.shards] == ["val"]
    again = open_source(tmp_path / "all")
    assert (
        sorted(s.split for s in again.samples if s.split)
        == ["test"] * 2 + ["train"] * 2 + ["val"] * 2
    )


def test_keys_are_unique_and_have_no_dots(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    for number, name in enumerate(("1.png", "1.gif", "x.y.png", ".", "long" * 40 + ".png")):
        if name != ".":
            Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / "in" / "a" / name)
    pack(open_source(tmp_path / "in"), tmp_path / "out")
    names = {name for name in members(tmp_path / "out") if not name.endswith(".cls")}
    assert names == {"a/1.gif", "a/1-2.png", "a/x_y.png", f"a/{'long' * 40}.png"}


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "in" / "a" / "1.png")
    (tmp_path / "in" / "a" / "2.png").write_bytes(b"text")
    (tmp_path / "in" / "a" / "3.png").symlink_to("nowhere")
    packed = pack(open_source(tmp_path / "in"), tmp_path / "out")
    assert [name for name, _ in packed.unreadable] == ["a/2.png", "a/3.png"] or [
        name for name, _ in packed.unreadable
    ] == ["a/3.png", "a/2.png"]
    assert sum(one.samples or 0 for one in packed.index.shards) == 1
    (tmp_path / "in" / "a" / "1.png").write_bytes(b"text")
    with pytest.raises(DataError, match="no image that can be packed"):
        pack(open_source(tmp_path / "in"), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_images_that_are_in_no_file_become_png(tmp_path: Path) -> None:
    source = open_source("digits")
    pack(source, tmp_path / "out")
    found = members(tmp_path / "out")
    for index in (0, 99, 1796):
        name = source.samples[index].name
        np.testing.assert_array_equal(decode(found[f"{name}.png"]), source.read(index))
        assert found[f"{name}.cls"] == str(source.samples[index].label).encode()


def test_nothing_is_overwritten(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists; name a new folder"):
        pack(open_source(colours), tmp_path)
    with pytest.raises(DataError, match="no split 'val' to pack; it has train"):
        pack(open_source(colours), tmp_path / "x", split="val")
    assert not (tmp_path / "x").exists()


def test_an_interrupt_leaves_whole_shards_and_no_index(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write.encoded
    left = iter(range(40))

    def interrupted(*arguments: object) -> bytes:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(write, "encoded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(open_source(colours), tmp_path / "out", shard_bytes=20_000)
    left_files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left_files and all(name.endswith(".tar") for name in left_files)
    assert not any(name.startswith(".") for name in left_files)
    assert 0 < len(members(tmp_path / "out")) <= 80
