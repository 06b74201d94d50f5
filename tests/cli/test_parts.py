"""Predictions that many processes write, each in a part of its own."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import vitkit
from vitkit.cli.parts import names_in, new_part, part_of, parts
from vitkit.cli.writer import Writer
from vitkit.data.sources import open_inputs
from vitkit.errors import ConfigError, DataError
from vitkit.training.distributed import Group


def test_a_rank_has_a_name_and_another_the_second_time(tmp_path: Path) -> None:
    out, group = tmp_path / "an.swers.csv", Group(1, 12)
    names = []
    for _ in range(3):
        path = new_part(out, group)
        path.touch()
        names.append(path.name)
    assert names == [f"an.swers-00001-of-00012{more}.csv" for more in ("", "-2", "-3")]
    for other in ("an.swers.csv", "anXswers-00001-of-00012.csv", "an.swers-1-of-2.csv"):
        (tmp_path / other).touch()
    (tmp_path / "an.swers-00000-of-00002.jsonl").touch()
    assert [path.name for path in parts(out)] == sorted(names)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("embed", [False, True])
def test_names_come_back_from_every_kind_of_part(tmp_path: Path, suffix: str, embed: bool) -> None:
    names = ['a,"b".png', "c\nd.png", "e\udcff.png", "ü.png"]
    with Writer(tmp_path / f"x.{suffix}") as writer:
        for name in names:
            if embed:
                writer.embedding(name, np.ones(3, np.float32))
            else:
                writer.prediction(name, [("cat", 0.5)])
    assert list(names_in(tmp_path / f"x.{suffix}")) == [*names[:2], r"e\udcff.png", names[3]]
    with Writer(tmp_path / f"nothing.{suffix}"):
        pass
    assert list(names_in(tmp_path / f"nothing.{suffix}")) == []


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_another_file_is_no_part(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"1,2\n3,4\n")
    with pytest.raises(DataError, match="is no part of predictions: .*; remove it"):
        list(names_in(path))


def test_ranks_need_a_file(colours: Path) -> None:
    with pytest.raises(ConfigError, match="2 ranks write a file each; give --out"):
        part_of(open_inputs([colours]), None, Group(0, 2))


def predict(ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*launcher, "-m", "vitkit", "predict", *map(str, arguments)]
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def files(out: Path) -> list[str]:
    return [name for part in parts(out) for name in names_in(part)]


def test_parts_hold_every_input_once(finished: vitkit.Run, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    done = predict(2, finished.directory, colours, "--out", out, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    inputs = [str(path) for path in sorted(colours.rglob("*.png"))]
    assert files(out) == inputs  # in their order
    assert [path.name for path in parts(out)] == [f"answers-0000{r}-of-00002.csv" for r in (0, 1)]
    result = json.loads(done.stdout)
    assert result == {"out": list(map(str, parts(out))), "rows": 60, "unreadable": []}
    rows = [row for part in parts(out) for row in csv.DictReader(part.read_text().splitlines())]
    expected = finished.load(device="cpu").predict(inputs)
    assert [row["label"] for row in rows] == [prediction.label for prediction in expected]


@pytest.mark.slow
def test_what_no_part_holds_is_done_again(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "answers.parquet"
    for path in sorted(colours.rglob("*.png")):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, folder / path.parent.name / path.name)
    (folder / "broken.png").write_bytes(b"not an image")
    arguments = (finished.directory, folder, "--out", out, "--device", "cpu")
    first = predict(2, *arguments)
    assert first.returncode != 0 and "1 of 61 inputs could not be read" in first.stderr
    lost, kept = parts(out)
    before = kept.read_bytes()
    lost.unlink()
    held = set(names_in(kept))
    (folder / "new.png").write_bytes((folder / "red" / "00.png").read_bytes())
    predict(3, *arguments)
    assert kept.read_bytes() == before
    assert Counter(files(out)) == Counter(
        str(path) for path in folder.rglob("*.png") if path.name != "broken.png"
    )
    new = [part for part in parts(out) if part != kept]
    assert [part.name for part in new] == [f"answers-0000{r}-of-00003.parquet" for r in range(3)]
    assert not held & {name for part in new for name in names_in(part)}
    rows = sum(pyarrow.parquet.read_table(part).num_rows for part in parts(out))
    assert rows == 61
    last = predict(2, *arguments)
    assert "1 of 62 inputs could not be read" in last.stderr
    assert len(parts(out)) == 4  # none that is empty
