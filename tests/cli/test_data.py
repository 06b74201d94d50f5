"""`vitkit data check`."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitkit
from vitkit.data.check.run import check_data
from vitkit.data.sources import open_source


@pytest.fixture
def leaky(colours: Path, tmp_path: Path) -> Path:
    """`colours` in train, and in test an exact copy, a mirrored one and two new images."""
    folder = tmp_path / "leaky"
    shutil.copytree(colours, folder / "train")
    random = np.random.default_rng(1)
    for label, name in (("red", "new.png"), ("blue", "new.png")):
        (folder / "test" / label).mkdir(parents=True)
        pixels = random.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "test" / label / name)
    shutil.copy(colours / "red" / "03.png", folder / "test" / "red" / "same.png")
    with Image.open(colours / "blue" / "04.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "test" / "blue" / "flip.bmp")
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is not told where to go goes there."""
    folder = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(folder)
    return folder


def words(text: str) -> str:
    """The text with one space between words."""
    return " ".join(text.split())


def test_a_clean_set_is_zero(vitkit_command, colours: Path, elsewhere: Path) -> None:
    done = vitkit_command("data", "check", colours)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "60 images in 3 classes: train 60"
    table = {line[:16].strip(): line.split() for line in lines[3:16]}
    assert table["unreadable"][-1] == "0"
    assert {"exact copies", "near copies", "leaks", "label conflicts", "blurry"} <= set(table)
    assert lines[-1] == "page  runs/check-colours/check.html"
    assert (elsewhere / "runs" / "check-colours" / "check.html").is_file()
    assert vitkit_command("data", "check", colours).out.splitlines()[-1] == (
        "page  runs/check-colours-2/check.html"
    )


def test_leaks_are_one(vitkit_command, leaky: Path, tmp_path: Path) -> None:
    done = vitkit_command("data", "check", leaky, "--out", tmp_path / "out")
    assert done.code == 1
    assert done.err.startswith("vitkit: 2 images to test on have a copy in an earlier split (1 ex")
    assert done.err.count("\n") == 1
    assert "leaks 2 test/red/same.png, test/blue/flip.bmp" in words(done.out)
    with open(tmp_path / "out" / "findings.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["finding"] == "leak"]
    assert {row["file_name"]: row["detail"] for row in rows} == {
        "test/red/same.png": "train/red/03.png same file",
        "test/blue/flip.bmp": "train/blue/04.png mirrored",
    }


def test_json_is_all_of_it_and_nothing_else(vitkit_command, leaky: Path, tmp_path: Path) -> None:
    done = vitkit_command("data", "check", leaky, "--json", "--out", tmp_path / "out")
    assert done.code == 1
    data = json.loads(done.out)
    page = tmp_path / "out" / "check.html"
    expected = json.loads(json.dumps(check_data(open_source(leaky)).to_json()))
    assert data == {**expected, "labels": None, "page": str(page)}
    assert [leak["how"] for leak in data["leaks"]] == ["same file", "mirrored"]


@pytest.mark.parametrize(("share", "code"), [("0.1", 0), ("0.01", 1)])
def test_unreadable_files_above_the_limit(
    vitkit_command, colours: Path, tmp_path: Path, share: str, code: int
) -> None:
    shutil.copytree(colours, tmp_path / "data")
    (tmp_path / "data" / "red" / "07.png").write_bytes(b"not an image")
    done = vitkit_command("data", "check", tmp_path / "data", "--max-unreadable", share)
    assert done.code == code
    assert "unreadable 1 red/07.png" in words(done.out)
    assert ("1 of 60 files cannot be read, more than the limit of 0.01" in done.err) == bool(code)


def mislabel(colours: Path, folder: Path) -> Path:
    shutil.copytree(colours, folder)
    for name in ("05.png", "09.png", "14.png"):
        (folder / "red" / name).rename(folder / "blue" / f"wrong{name}")
    return folder


def test_wrong_labels_by_folds(
    vitkit_command, colours: Path, tmp_path: Path, tiny: dict[str, Any], elsewhere: Path
) -> None:
    data = mislabel(colours, tmp_path / "data")
    settings = [f"{key}={value}" for key, value in tiny.items() if key != "device"]
    done = vitkit_command("data", "check", data, "--folds", 2, "--device", "cpu", *settings)
    assert done.code == 0
    row = next(line for line in done.out.splitlines() if line.startswith("wrong labels"))
    assert "likely; first blue/wrong" in row
    assert "labels  60 images scored by 2 models (vit_tiny_patch16_224, 4 epochs)" in done.out
    assert sorted(path.name for path in (elsewhere / "runs").iterdir()) == ["check-data"]
    page = (elsewhere / "runs" / "check-data" / "check.html").read_text()
    assert "Likely wrong labels" in page


def test_wrong_labels_by_a_model(
    vitkit_command, colours: Path, tmp_path: Path, finished: vitkit.Run
) -> None:
    finished.load().save(tmp_path / "model")
    data = mislabel(colours, tmp_path / "data")
    done = vitkit_command("data", "check", data, "--model", tmp_path / "model", "--json")
    assert done.code == 0
    labels = json.loads(done.out)["labels"]
    first = {(row["file"], row["label"], row["suggested"]) for row in labels["likely_wrong"][:3]}
    planted = {(f"blue/wrong{name}.png", "blue", "red") for name in ("05", "09", "14")}
    assert len(first & planted) >= 2
    assert labels["scored"] == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "x", "--folds", "2"], "--model and --folds are two ways"),
        (["epochs=2"], "epochs=2 is a setting of training, which only --folds does"),
        (["--folds", "1"], "--folds"),
        (["--max-unreadable", "2"], "--max-unreadable"),
        (["--model", "nowhere"], "nowhere"),
        (["--out", "here.txt"], "here.txt is a file; name a directory with --out"),
    ],
)
def test_a_mistake_is_one_line(
    vitkit_command, colours: Path, elsewhere: Path, arguments: list[str], message: str
) -> None:
    (elsewhere / "here.txt").write_text("")
    done = vitkit_command("data", "check", colours, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (elsewhere / "runs").exists()


def test_a_check_is_not_overwritten(vitkit_command, colours: Path, tmp_path: Path) -> None:
    assert vitkit_command("data", "check", colours, "--out", tmp_path / "out").code == 0
    before = (tmp_path / "out" / "check.html").stat().st_mtime_ns
    done = vitkit_command("data", "check", colours, "--out", tmp_path / "out")
    assert done.code == 2
    assert "holds a check already; choose another --out, or remove it" in done.err
    assert (tmp_path / "out" / "check.html").stat().st_mtime_ns == before


def test_no_such_data(vitkit_command) -> None:
    done = vitkit_command("data", "check", "nothing")
    assert done.code == 2
    assert "nothing does not exist" in done.err


def test_help(vitkit_command) -> None:
    done = vitkit_command("data", "check", "--help")
    assert done.code == 0
    for option in ("--out", "--model", "--folds", "--max-unreadable", "--json"):
        assert option in done.out
