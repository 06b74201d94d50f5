import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from vitkit.data.check.run import COLUMNS, DataCheck, check_data
from vitkit.data.sources import open_source

Change = Callable[[Image.Image], Image.Image]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, drawn: list[Image.Image]) -> Path:
    """A set with one of everything that is wrong with sets."""
    folder = tmp_path_factory.mktemp("check") / "data"
    for split, label in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (folder / split / label).mkdir(parents=True)
    for row, image in enumerate(drawn):
        split, label = "test" if row % 4 == 3 else "train", "ab"[row % 2]
        image.save(folder / split / label / f"{row:03}.png")
    train, test = folder / "train", folder / "test"
    shutil.copy(train / "a" / "000.png", train / "a" / "copy.png")  # of one split
    shutil.copy(train / "b" / "001.png", test / "b" / "leak.png")
    drawn[2].transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((70, 70)).save(
        test / "a" / "near.jpg", quality=60
    )
    drawn[4].save(train / "b" / "conflict.webp", quality=70)
    drawn[5].filter(ImageFilter.GaussianBlur(6)).save(train / "b" / "blurred.png")
    drawn[6].point(lambda value: value // 8).save(train / "a" / "dark.png")
    drawn[8].point(lambda value: 225 + value // 9).save(train / "a" / "bright.png")
    Image.new("RGB", (96, 96), (90, 90, 90)).save(train / "a" / "even.png")
    drawn[9].resize((24, 24)).save(train / "b" / "small.png")
    drawn[10].resize((400, 400)).save(train / "a" / "large.png")
    drawn[12].resize((300, 90)).save(train / "a" / "oblong.png")
    (train / "a" / "broken.png").write_bytes((train / "a" / "000.png").read_bytes()[:300])
    (train / "loose.png").write_bytes((train / "a" / "000.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def found(planted: Path) -> DataCheck:
    return check_data(open_source(planted), workers=2)


def names(found: DataCheck, finding: str) -> list[str]:
    return [row[0] for row in found.findings() if row[1] == finding]


@pytest.mark.parametrize(
    ("finding", "file"),
    [
        ("unreadable", "train/a/broken.png"),
        ("outside the class folders", "train/loose.png"),
        ("leak", "test/b/leak.png"),
        ("leak", "test/a/near.jpg"),
        ("conflict", "train/a/004.png"),
        ("exact copy", "train/a/copy.png"),
        ("near copy", "train/a/large.png"),
        ("near copy", "train/b/small.png"),
        ("near copy", "train/a/oblong.png"),
        ("blurry", "train/b/blurred.png"),
        ("dark", "train/a/dark.png"),
        ("bright", "train/a/bright.png"),
        ("low-information", "train/a/even.png"),
        ("small", "train/b/small.png"),
        ("large", "train/a/large.png"),
        ("oblong", "train/a/oblong.png"),
    ],
)
def test_what_was_planted_is_found(found: DataCheck, finding: str, file: str) -> None:
    assert file in names(found, finding)


def test_and_hardly_anything_else(found: DataCheck) -> None:
    assert names(found, "unreadable") == ["train/a/broken.png"]
    assert names(found, "exact copy") == ["test/b/leak.png", "train/a/copy.png"]
    assert set(names(found, "leak")) == {"test/b/leak.png", "test/a/near.jpg"}
    assert len(names(found, "conflict")) == 1
    assert len(names(found, "near copy")) <= 10
    for finding in ("dark", "bright", "low-information", "small", "large", "oblong"):
        assert len(names(found, finding)) == 1, finding
    flattened = {f"train/a/{name}.png" for name in ("dark", "bright", "large")}
    assert set(names(found, "blurry")) <= {"train/b/blurred.png"} | flattened
    assert found.flat == 1


def test_leaks_are_serious(found: DataCheck) -> None:
    (line,) = found.serious
    assert line.startswith("2 images to test on have a copy in an earlier split (1 exact, 1 nearly")


def test_so_are_many_unreadable_files(planted: Path) -> None:
    strict = check_data(open_source(planted), max_unreadable=0)
    assert strict.serious[0].startswith("1 of 132 files cannot be read, more than the limit of 0 ")


def test_a_clean_set_has_nothing_serious(colours: Path) -> None:
    clean = check_data(open_source(colours))
    assert clean.serious == () and clean.leaks == () and clean.exact == ()
    assert clean.rare == ()
    assert list(clean.findings()) == []


def test_classes_with_few_images(tmp_path: Path, drawn: list[Image.Image]) -> None:
    for label, count in {"many": 60, "few": 9}.items():
        (tmp_path / label).mkdir()
        for row in range(count):
            drawn[row].save(tmp_path / label / f"{row}.png")
    clean = check_data(open_source(tmp_path))
    assert clean.rare == ("few",)
    assert clean.summary.imbalance == pytest.approx(60 / 9)


def test_json_has_every_finding(found: DataCheck) -> None:
    data = json.loads(json.dumps(found.to_json()))
    assert data["images"] == 131 and data["classes"]["a"] == {"test": 1, "train": 66}
    assert data["exact"][0] == {
        "files": ["test/b/leak.png", "train/b/001.png"],
        "same_file": True,
    }
    assert {(leak["file"], *leak["splits"]) for leak in data["leaks"]} == {
        ("test/b/leak.png", "test", "train"),
        ("test/a/near.jpg", "test", "train"),
    }
    assert data["conflicts"][0]["labels"] == ["a", "b"]
    assert len(data["near"]) == len(found.near.first)
    assert data["unusual"]["dark"]["files"][0]["file"] == "train/a/dark.png"
    assert data["unusual"]["dark"]["files"][0]["value"] < data["unusual"]["dark"]["threshold"]
    assert data["serious"] == list(found.serious)
    assert all(len(row) == len(COLUMNS) for row in found.findings())


def test_the_whole_set_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"no image")
    found = check_data(open_source(tmp_path))
    assert len(found.serious) == 1
    assert json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("archive", "pattern", "count"),
    [
        ("flowers.zip", "flowers/*/*.jpg", 300),
        ("cifar10-jpeg.zip", "cifar10-jpeg/test/*/*.jpg", 300),
    ],
)
def test_planted_copies_of_real_images(
    unpacked: Callable[[str], Path],
    changes: dict[str, Change],
    tmp_path: Path,
    archive: str,
    pattern: str,
    count: int,
) -> None:
    """At least 95 % of the planted near copies, every exact one, and few false alarms."""
    files = sorted(unpacked(archive).glob(pattern))
    files = [files[row] for row in np.random.default_rng(0).permutation(len(files))]
    (tmp_path / "train" / "x").mkdir(parents=True)
    (tmp_path / "test" / "x").mkdir(parents=True)
    for row, file in enumerate(files[: 4 * count]):
        shutil.copy(file, tmp_path / "train" / "x" / f"{row:05}.jpg")
    kinds = list(changes)
    for row in range(count):
        with Image.open(files[row]) as image:
            copy = changes[kinds[row % len(kinds)]](image.convert("RGB"))
        copy.save(tmp_path / "test" / "x" / f"{row:05}.png")
    for row in range(count, 2 * count):
        shutil.copy(files[row], tmp_path / "test" / "x" / f"{row:05}.jpg")
    found = check_data(open_source(tmp_path), workers=1)
    leaks = {Path(found.samples[copy.row].name).stem: copy for copy in found.leaks}
    exact = {stem for stem, copy in leaks.items() if copy.exact}
    assert exact >= {f"{row:05}" for row in range(count, 2 * count)}
    near = [row for row in range(count) if f"{row:05}" in leaks]
    assert len(near) >= 0.95 * count
    planted = {frozenset((f"{row:05}",)) for row in range(2 * count)}
    pairs = [
        frozenset(Path(found.samples[row].name).stem for row in pair[:2])
        for pair in found.near_rows()
    ]
    alarms = [pair for pair in pairs if pair not in planted]
    assert len(alarms) <= 0.02 * len(found.samples)
