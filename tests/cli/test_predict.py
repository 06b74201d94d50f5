"""`vitkit predict`."""

import csv
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import vitkit


@pytest.fixture
def images(colours: Path) -> list[Path]:
    """Three files of each class."""
    return sorted(colours.rglob("0[012].png"))


@pytest.fixture
def expected(finished: vitkit.Run, images: list[Path]) -> list[vitkit.Prediction]:
    """What Python says of them."""
    return finished.load().predict(images)


def test_the_screen_gets_a_line_an_image(
    vitkit_command,
    finished: vitkit.Run,
    images: list[Path],
    expected: list[vitkit.Prediction],
) -> None:
    done = vitkit_command("predict", finished.directory, *images)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{image}\t{prediction.label}\t{prediction.score:.4f}"
        for image, prediction in zip(images, expected, strict=True)
    ]


def test_json_is_an_array_of_rows(
    vitkit_command,
    finished: vitkit.Run,
    images: list[Path],
    expected: list[vitkit.Prediction],
) -> None:
    done = vitkit_command("predict", finished.directory, *images, "--json", "--topk", "2")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == [
        {
            "file": str(image),
            "label": prediction.label,
            "score": prediction.score,
            "topk": [{"label": s.label, "score": s.score} for s in prediction.topk[:2]],
        }
        for image, prediction in zip(images, expected, strict=True)
    ]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files_of_every_kind_hold_the_same(
    vitkit_command,
    finished: vitkit.Run,
    images: list[Path],
    expected: list[vitkit.Prediction],
    suffix: str,
    tmp_path: Path,
) -> None:
    out = tmp_path / f"rows.{suffix}"
    done = vitkit_command("predict", finished.directory, *images, "--out", out)
    assert (done.code, done.out) == (0, "")
    assert done.err == f"9 rows in {out}\n"
    rows = read(out)
    assert [row["file"] for row in rows] == [str(image) for image in images]
    assert [row["label"] for row in rows] == [prediction.label for prediction in expected]
    scores = [prediction.score for prediction in expected]
    assert [float(row["score"]) for row in rows] == pytest.approx(scores, rel=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_json_beside_a_file_says_what_was_done(
    vitkit_command, finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    shutil.copytree(colours / "red", tmp_path / "red")
    broken = tmp_path / "red" / "07.png"
    broken.write_bytes(b"not an image")
    out = tmp_path / "rows.csv"
    done = vitkit_command("predict", finished.directory, tmp_path / "red", "--out", out, "--json")
    assert done.code == 1
    result = json.loads(done.out)
    ((unreadable),) = result.pop("unreadable")
    assert result == {"out": str(out), "rows": 19}
    assert unreadable.keys() == {"file", "reason"}
    assert unreadable["file"] == str(broken)
    assert f"{broken}: {unreadable['reason']}" in done.err
    assert len(read(out)) == 19


@pytest.mark.parametrize(
    ("to_file", "on_terminal", "shown"),
    [(True, True, True), (True, False, True), (False, False, True), (False, True, False)],
)
def test_progress_is_shown_where_the_rows_do_not_show_it(
    vitkit_command,
    finished: vitkit.Run,
    images: list[Path],
    to_file: bool,
    on_terminal: bool,
    shown: bool,
    tmp_path: Path,
    monkeypatch,
) -> None:
    monkeypatch.setattr("vitkit.cli.screen.PLAIN_EVERY", -1.0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: on_terminal)
    out = ["--out", tmp_path / "rows.csv"] if to_file else []
    done = vitkit_command("predict", finished.directory, *images, *out)
    assert done.code == 0
    counts = [line.split()[1] for line in done.err.splitlines() if line.startswith("predict ")]
    assert counts == [f"{n}/9" for n in range(1, 10)] * shown


def test_rows_go_to_the_pipe_while_the_bar_is_on_the_terminal(
    finished: vitkit.Run, images: list[Path]
) -> None:
    """`vitkit predict ... > rows.txt`, with standard error a real terminal."""
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "vitkit", "predict", finished.directory, *images]
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert done.returncode == 0
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert [row[0] for row in rows] == [str(image) for image in images]
    assert "\x1b[?25l" in shown and ".png" not in shown  # the bar hides the cursor


def test_a_name_is_one_row(vitkit_command, finished: vitkit.Run, images, tmp_path: Path) -> None:
    name = tmp_path / "a\tb\nc\x1b[2J.png"
    shutil.copy(images[0], name)
    broken = tmp_path / "d\ne.png"
    broken.write_bytes(b"not an image")
    done = vitkit_command("predict", finished.directory, name, broken)
    assert done.code == 1
    (row,) = done.out.splitlines()
    assert row.split("\t")[0] == f"{tmp_path}/a\\tb\\nc\\x1b[2J.png"
    first, _ = done.err.splitlines()
    assert first.startswith(f"vitkit: left out {tmp_path}/d\\ne.png: ")


def read(path: Path) -> list[dict]:
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pyarrow.parquet.read_table(path).to_pylist()


def test_features_are_those_of_python(
    vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "features.parquet"
    done = vitkit_command("predict", finished.directory, *images, "--embed", "--out", out)
    assert done.code == 0
    features = np.array([row["embedding"] for row in read(out)])
    assert features.shape == (9, 16)
    np.testing.assert_allclose(features, finished.load().embed(images), rtol=1e-5, atol=1e-6)


def test_a_broken_image_is_listed_and_the_others_are_done(
    vitkit_command, finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    shutil.copytree(colours / "red", tmp_path / "red")
    (tmp_path / "red" / "07.png").write_bytes(b"not an image")
    done = vitkit_command("predict", finished.directory, tmp_path / "red", "--json")
    assert done.code == 1
    rows = json.loads(done.out)
    assert len(rows) == 19
    assert not any(row["file"].endswith("07.png") for row in rows)
    first, last = done.err.splitlines()
    assert first.startswith(f"vitkit: left out {tmp_path / 'red' / '07.png'}: ")
    assert last == "vitkit: 1 of 20 inputs could not be read"


def test_nothing_is_overwritten(
    vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    out.write_text("mine")
    done = vitkit_command("predict", finished.directory, *images, "--out", out)
    assert done.code == 2
    assert "exists already; choose another --out or remove it" in done.err
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "rows.txt"], "is of no known kind; use .csv, .jsonl or .parquet"),
        (["--out", "absent/rows.csv"], "absent does not exist; make it"),
        (["--out", "/proc/rows.csv"], "/proc/rows.csv cannot be written ("),
        (["absent.png"], "absent.png does not exist"),
        (["*.gif"], "*.gif holds no image"),
    ],
)
def test_a_mistake_is_one_line(
    vitkit_command,
    finished: vitkit.Run,
    images: list[Path],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = vitkit_command("predict", finished.directory, images[0], *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_interrupt_is_130_and_keeps_the_rows(
    vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path, monkeypatch
) -> None:
    stream = vitkit.Classifier.stream

    def interrupted(self, source, **more):
        for answer in stream(self, source, **more):
            if answer.index == 4:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(vitkit.Classifier, "stream", interrupted)
    out = tmp_path / "rows.csv"
    done = vitkit_command("predict", finished.directory, *images, "--out", out)
    assert done.code == 130
    assert "interrupted" in done.err
    assert len(read(out)) == 4
