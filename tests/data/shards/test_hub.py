"""Data sets that the library `datasets` streams, from files of this machine."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from vitkit.data.shards.hub import columns, open_hub
from vitkit.data.shards.order import Piece
from vitkit.errors import DataError, MissingExtra

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing is asked of the network, and no cache is written outside the test."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield


def png(grey: int) -> bytes:
    memory = io.BytesIO()
    Image.new("RGB", (4, 4), (grey, grey, grey)).save(memory, "PNG")
    return memory.getvalue()


def parquet(folder: Path, files: int, rows: int) -> Path:
    """A data set with classes a and b in the Hugging Face layout, sample n being n grey."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    folder.mkdir()
    for file in range(files):
        numbers = range(file * rows, (file + 1) * rows)
        images = [{"bytes": png(number), "path": None} for number in numbers]
        content = {"image": images, "label": [number % 2 for number in numbers]}
        data = datasets.Dataset.from_dict(content, features=features)
        data.to_parquet(folder / f"train-{file:05}-of-{files:05}.parquet")
    return folder


def test_files_of_a_parquet_set_are_its_shards(tmp_path: Path) -> None:
    source = open_hub(f"hf-datasets:{parquet(tmp_path / 'x', 3, 4)}")
    assert source.classes == ("a", "b")
    assert [(one.split, one.samples) for one in source.shards] == [("train", None)] * 3
    for shard in range(3):
        found = list(source.part(Piece(shard)))
        assert [int(source.decode(one)[0, 0, 0]) for one in found] == [
            shard * 4 + n for n in range(4)
        ]
        assert [source.number_of(one) for one in found] == [0, 1, 0, 1]
    some = source.part(Piece(1, 1, 3))
    assert [one.place for one in some] == [(1, 1), (1, 2)]


def test_image_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / "x" / split / name).mkdir(parents=True)
            (tmp_path / "x" / split / name / "1.png").write_bytes(png(number))
    source = open_hub(f"hf-datasets:{tmp_path / 'x'}")
    assert source.classes == ("cat", "dog") and source.splits == {"train", "test"}
    train = next(n for n, one in enumerate(source.shards) if one.split == "train")
    found = list(source.part(Piece(train)))
    assert [int(source.decode(one)[0, 0, 0]) for one in found] == [0, 1]
    assert [source.number_of(one) for one in found] == [0, 1]
    only = open_hub(f"hf-datasets:{tmp_path / 'x'}:test")
    assert only.splits == frozenset() and len(only.shards) == 1


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hf-datasets:owner/none cannot be read") as caught:
        open_hub("hf-datasets:owner/none")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no split 'trian'.*did you mean 'train'"):
        open_hub(f"hf-datasets:{parquet(tmp_path / 'x', 1, 2)}:trian")


def test_columns_by_their_kinds() -> None:
    image, value = datasets.Image(), datasets.Value("int64")
    named = datasets.ClassLabel(names=["x"])
    assert columns("d", {"id": value, "picture": image, "kind": named}) == (
        "picture",
        "kind",
        ["x"],
    )
    assert columns("d", {"image": image, "label": value}) == ("image", "label", [])
    with pytest.raises(DataError, match="no column of images"):
        columns("d", {"label": value})
    with pytest.raises(DataError, match=r"no column of labels \(its columns: image, id\)"):
        columns("d", {"image": image, "id": value})
    with pytest.raises(DataError, match="its columns: none"):
        columns("d", None)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vitkit\[hub\]'"):
        open_hub("hf-datasets:owner/name")
