"""Images that the page offers."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitkit
from vitkit.data.sources import open_source
from vitkit.data.split import load_split
from vitkit.errors import DataError
from vitkit.serve.samples import SIDE, choose_samples, samples_of, samples_of_run


def decoded(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)))


def test_every_class_in_turn(colours: Path) -> None:
    source = open_source(colours)
    chosen = choose_samples(source, 7)
    assert sorted(Counter(s.label for s in chosen).values()) == [2, 2, 3]
    for sample in chosen:
        original = Image.open(colours / sample.label / sample.name).convert("RGB")
        assert (decoded(sample.picture) == np.asarray(original)).all()


def test_a_run_offers_what_it_held_out(finished: vitkit.Run, colours: Path) -> None:
    chosen = samples_of_run(finished.directory)
    splits = {row.name: row.split for row in load_split(finished.directory / "split.csv")}
    assert len(chosen) == 8
    assert {splits[f"{s.label}/{s.name}"] for s in chosen} <= {"val", "test"}


def test_what_is_no_run_offers_nothing(tmp_path: Path) -> None:
    assert samples_of_run(tmp_path) == []


def test_a_run_whose_data_are_gone(tmp_path: Path, finished: vitkit.Run) -> None:
    environment = json.loads((finished.directory / "env.json").read_text())
    environment["data"] = str(tmp_path / "gone.zip")
    (tmp_path / "env.json").write_text(json.dumps(environment))
    (tmp_path / "split.csv").write_bytes((finished.directory / "split.csv").read_bytes())
    with pytest.raises(DataError, match="gone.zip from here; --samples DATA"):
        samples_of_run(tmp_path)


def test_images_without_classes(tmp_path: Path) -> None:
    Image.new("RGB", (9, 8), "red").save(tmp_path / "one.png")
    for given in (tmp_path, tmp_path / "one.png"):
        assert [(s.label, s.name) for s in samples_of(str(given))] == [("", "one.png")]


def test_large_and_broken_images(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(b"no image")
        Image.new("RGB", (2000, 1000), "red").save(tmp_path / name / "1.png")
    chosen = choose_samples(open_source(tmp_path))
    assert [(s.label, s.name) for s in chosen] == [("a", "1.png"), ("b", "1.png")]
    assert decoded(chosen[0].picture).shape == (SIDE // 2, SIDE, 3)


def test_nothing_can_be_read(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="no image that can be read"):
        choose_samples(open_source(tmp_path))
