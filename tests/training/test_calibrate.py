"""The temperature that a run keeps with its best weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coloured
import vitkit
from vitkit.data.sources import open_source
from vitkit.evaluation.calibration import fit_temperature
from vitkit.training.checkpoint import fault


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 100 images, of which one in five has the colour of any of the three."""
    return coloured.draw(tmp_path_factory.mktemp("data") / "doubtful", 100, (8, 8), odd=5)


@pytest.fixture(scope="module")
def run(
    doubtful: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> vitkit.Run:
    """A run with 60 validation images, whose smoothed labels leave it unsure of itself."""
    settings = tiny | {"label_smoothing": 0.3, "data.val_fraction": 0.25, "epochs": 6}
    return vitkit.train(doubtful, out=tmp_path_factory.mktemp("calibrate") / "run", **settings)


def validation(run: vitkit.Run, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the run's validation images, and their labels."""
    source, classifier = open_source(data), run.load(device="cpu")
    rows = (run.directory / "split.csv").read_text().splitlines()[1:]
    inside = [index for index, row in enumerate(rows) if row.endswith(",val")]
    with torch.no_grad():
        images = [classifier.preprocess(source.read(index)) for index in inside]
        logits = classifier.model(torch.stack(images)).numpy()
    return logits, np.array([source.samples[index].label for index in inside])


def test_it_is_the_one_of_the_validation_images(run: vitkit.Run, doubtful: Path) -> None:
    temperature = run.load().temperature
    logits, labels = validation(run, doubtful)
    assert len(labels) == 60
    assert temperature != 1
    assert temperature == pytest.approx(fit_temperature(logits, labels), rel=1e-4)
    described = json.loads((run.directory / "best" / "config.json").read_text("utf-8"))
    assert described["vitkit"]["temperature"] == temperature


def test_the_run_is_scored_with_it(run: vitkit.Run, doubtful: Path) -> None:
    assert run.evaluation is not None
    assert run.evaluation.temperature == run.load().temperature
    assert vitkit.evaluate(run.load(), doubtful) == run.evaluation
    assert run.evaluation.ece_uncalibrated != run.evaluation.ece


def test_what_is_written_is_whole(run: vitkit.Run) -> None:
    assert fault(run.directory / "best") is None


def test_a_second_look_changes_nothing(run: vitkit.Run, doubtful: Path) -> None:
    """Resumed when it is finished, the run fits the same again: from logits, not from shares."""
    before = (run.directory / "best" / "config.json").read_bytes()
    vitkit.train(doubtful, out=run.directory, resume=True)
    assert (run.directory / "best" / "config.json").read_bytes() == before


def test_few_images_say_too_little(finished: vitkit.Run) -> None:
    """The usual run of these tests has 5 images to validate with."""
    assert finished.load().temperature == 1
    assert finished.evaluation is not None
    assert finished.evaluation.ece_uncalibrated == finished.evaluation.ece
