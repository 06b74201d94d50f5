"""Rows written and read back with another library; files that appear whole or not at all."""

import csv
import gc
import json
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from vitkit.cli.writer import PARQUET_ROWS, Writer
from vitkit.errors import ConfigError, VitkitError

NAMES = [
    "plain.jpg",
    "with space, comma.png",
    'a "quoted" one',
    "zwei\nZeilen\r.jpg",
    "日本/ü\t.gif",
]
LABELS = ["daisy", 'the "rose", red', "Löwen\nzahn"]
SUFFIXES = [".csv", ".jsonl", ".parquet"]
Rows = list[dict[str, Any]]


def scores(index: int) -> list[tuple[str, float]]:
    first = 0.9 - index / 1000
    return [(LABELS[(index + k) % 3], first / 3**k) for k in range(3)]


def write_predictions(writer: Writer, names: list[str]) -> Rows:
    """The rows that the interface describes."""
    rows: Rows = []
    for index, name in enumerate(names):
        writer.prediction(name, scores(index))
        topk = [{"label": label, "score": score} for label, score in scores(index)]
        rows.append({"file": name, "label": topk[0]["label"], "score": topk[0]["score"]})
        rows[-1]["topk"] = topk
    return rows


def write_embeddings(writer: Writer, names: list[str]) -> Rows:
    values = np.random.default_rng(0).normal(size=(len(names), 6)).astype(np.float32)
    for name, row in zip(names, values, strict=True):
        writer.embedding(name, row)
    return [
        {"file": name, "embedding": row.tolist()} for name, row in zip(names, values, strict=True)
    ]


def read(path: Path) -> Rows:
    """What csv, json or pyarrow find in a file, as rows of the interface."""
    if path.suffix == ".parquet":
        return list(parquet.read_table(path).to_pylist())
    with open(path, encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file.read().split("\n")[:-1]]
        return [from_csv(row) for row in csv.DictReader(file)]


def from_csv(row: dict[str, str]) -> dict[str, Any]:
    if "label" not in row:
        return {"file": row["file"], "embedding": [float(row[str(i)]) for i in range(len(row) - 1)]}
    ranks = ["", "_2", "_3"]
    assert list(row) == ["file", *(f"{key}{rank}" for rank in ranks for key in ("label", "score"))]
    topk = [{"label": row[f"label{r}"], "score": float(row[f"score{r}"])} for r in ranks]
    return {"file": row["file"], **topk[0], "topk": topk}


def check_rows(given: Rows, expected: Rows) -> None:
    """Equal, numbers to six digits."""
    assert len(given) == len(expected)
    for mine, other in zip(given, expected, strict=True):
        assert mine.keys() == other.keys()
        assert mine["file"] == other["file"] and mine.get("label") == other.get("label")
        assert mine.get("embedding", []) == pytest.approx(other.get("embedding", []), rel=1e-5)
        assert mine.get("score", 0) == pytest.approx(other.get("score", 0), rel=1e-5)
        for a, b in zip(mine.get("topk", []), other.get("topk", []), strict=True):
            assert a["label"] == b["label"] and a["score"] == pytest.approx(b["score"], rel=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("write", [write_predictions, write_embeddings])
def test_files(
    tmp_path: Path,
    suffix: str,
    write: Callable[[Writer, list[str]], Rows],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / f"out{suffix}"
    with Writer(path) as writer:
        expected = write(writer, NAMES)
        assert not path.exists()  # it gets its name at the end
    check_rows(read(path), expected)
    assert list(tmp_path.iterdir()) == [path]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_numbers_are_kept_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with Writer(path) as writer:
        writer.prediction("a", [("x", 1 / 3), ("y", 1e-12)])
    (row,) = read(path)
    assert row["score"] == 1 / 3 and row["topk"][1]["score"] == 1e-12


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_are_no_utf8(tmp_path: Path, suffix: str) -> None:
    """As Python names a file of such bytes; its row says which bytes they are."""
    path, name = tmp_path / f"out{suffix}", os.fsdecode(b"caf\xe9.jpg")
    with Writer(path) as writer:
        writer.prediction(name, [(os.fsdecode(b"ros\xe9"), 0.5)])
    (row,) = read(path) if suffix != ".csv" else list(csv.DictReader(open_text(path)))
    assert (row["file"], row["label"]) == ("caf\\udce9.jpg", "ros\\udce9")


def open_text(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


@pytest.mark.parametrize("rows", [PARQUET_ROWS - 1, PARQUET_ROWS, 2 * PARQUET_ROWS + 5])
def test_parquet_in_groups(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "out.parquet"
    with Writer(path) as writer:
        for index in range(rows):
            writer.prediction(f"{index}.jpg", [("x", 0.25), ("y", 0.125)])
            assert len(writer.format.rows) < PARQUET_ROWS  # type: ignore[attr-defined]
    assert parquet.ParquetFile(path).num_row_groups == -(-rows // PARQUET_ROWS)
    table = parquet.read_table(path)
    assert table.column_names == ["file", "label", "score", "topk"]
    assert table["file"].to_pylist() == [f"{index}.jpg" for index in range(rows)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with Writer(path):
        pass
    assert read(path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupt_keeps_the_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with pytest.raises(KeyboardInterrupt), Writer(path) as writer:
        expected = write_predictions(writer, NAMES)
        raise KeyboardInterrupt
    check_rows(read(path), expected)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    names = [f"{index}.jpg" for index in range(PARQUET_ROWS + 10)]  # one group is out already
    with pytest.raises(RuntimeError, match="mine"), Writer(tmp_path / f"out{suffix}") as writer:
        write_predictions(writer, names)
        raise RuntimeError("mine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_at_the_end_leaves_nothing(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / f"out{suffix}"
    message = f"{path} cannot be written (No space left on device); choose another --out"
    with pytest.raises(VitkitError, match=re.escape(message)), Writer(path) as writer:
        monkeypatch.setattr(writer.format, "end", full)
        write_predictions(writer, NAMES)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow past `size` bytes, as on a disk that is full; pytest's own log neither."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 3, 1000, 20_000])  # nothing, less than parquet's mark, some
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, suffix: str, size: int) -> None:
    path = tmp_path / f"out{suffix}"
    message = re.escape(f"{path} cannot be written (File too large)")
    with pytest.raises(VitkitError, match=message), room(size), Writer(path) as writer:
        write_predictions(writer, [f"{index}.jpg" for index in range(3 * PARQUET_ROWS)])
    gc.collect()  # a file left open would complain now
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_at_once_do_not_mix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with Writer(path) as one:
        with Writer(path) as other:
            write_predictions(one, ["1.jpg", "2.jpg"])
            expected = write_predictions(other, ["3.jpg"])
        check_rows(read(path), expected)
        expected = write_predictions(one, ["4.jpg"])
    assert [row["file"] for row in read(path)] == ["1.jpg", "2.jpg", "4.jpg"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_others_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="^mine$"), Writer(tmp_path / "out.csv"):
        raise OSError("mine")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_it_counts_its_rows(tmp_path: Path, suffix: str) -> None:
    with Writer(tmp_path / f"out{suffix}") as writer:
        write_predictions(writer, NAMES)
    assert writer.rows == len(NAMES)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no place that even root cannot fill")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_place_that_takes_no_files(suffix: str) -> None:
    writer = Writer(Path(f"/proc/out{suffix}"))
    with pytest.raises(ConfigError, match=r"/proc/out\.\w+ cannot be written \(.+\); choose"):
        writer.__enter__()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.txt", r"out\.txt is of no known kind; use \.csv, \.jsonl or \.parquet"),
        ("out", "out is of no known kind"),
        ("there.csv", r"there\.csv exists already; choose another --out"),
        ("folder.csv", r"folder\.csv exists already"),
        ("no/out.csv", "no does not exist; make it"),
        ("there.csv/out.csv", r"there\.csv is no directory; choose another --out"),
        (f"{'x' * 300}.csv", r"x\.csv cannot be written \(File name too long\); choose"),
    ],
)
def test_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match=message):
        Writer(tmp_path / name)
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("write", [write_predictions, write_embeddings])
@pytest.mark.parametrize("names", [NAMES, [], [os.fsdecode(b"\xff.jpg")]])
def test_json_array(
    write: Callable[[Writer, list[str]], Rows],
    names: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Writer(None, json=True) as writer:
        expected = write(writer, names)
    out, err = capsys.readouterr()
    given = json.loads(out)
    for row in expected:
        row["file"] = row["file"].replace("\udcff", "\\udcff")
    assert given == expected and err == ""


def test_an_interrupted_json_array_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Writer(None, json=True) as writer:
        expected = write_predictions(writer, NAMES)
        raise KeyboardInterrupt
    assert json.loads(capsys.readouterr().out) == expected


def test_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with Writer(None) as writer:
        writer.prediction("a/ü.jpg", [("rose", 0.98765), ("daisy", 0.01)])
        writer.prediction(os.fsdecode(b"\xff.jpg"), [("daisy", 1.0)])
        writer.prediction("a\tb\nc\x1b[2J.jpg", [("ro\nse", 0.5)])
        writer.embedding("b.jpg", np.array([0.25, -3, 1e-7], np.float32))
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "a/ü.jpg\trose\t0.9877",
        "\\udcff.jpg\tdaisy\t1.0000",
        "a\\tb\\nc\\x1b[2J.jpg\tro\\nse\t0.5000",
        "b.jpg\t0.25 -3 1e-07",
    ]
    assert err == ""
