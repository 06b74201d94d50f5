"""What a finished run hands to its report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from vitkit.errors import DataError
from vitkit.report.gather import MISTAKES_SHOWN, gather
from vitkit.report.page import write_report
from vitkit.training import run as training
from vitkit.training.config import resolve
from vitkit.training.run import Outcome


@pytest.fixture(scope="module")
def outcome(
    colours: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """A run that has learned too little to make no mistakes."""
    resolved = resolve({**tiny, "epochs": 2, "lr": 1e-4, "data.test_fraction": 0.5})
    directory = tmp_path_factory.mktemp("gather") / "run"
    return training.train_resolved(colours, resolved, directory=directory)


def test_it_says_what_was_trained_and_how(outcome: Outcome, colours: Path) -> None:
    report = gather(outcome)
    assert report.title == colours.name
    assert report.model == "vit_tiny_patch16_224"
    tensors = vitkit.load(outcome.run.directory).model.parameters()
    assert report.parameters == sum(tensor.numel() for tensor in tensors)
    assert report.split == "test"
    assert report.evaluation == outcome.run.evaluation
    assert [row["epoch"] for row in report.history] == [1, 2]
    assert report.seconds == report.history[-1]["seconds"]
    assert {row.key: row.value for row in report.settings}["epochs"] == 2
    counts = {split: sum(numbers) for split, numbers in report.data.counts.items()}
    assert counts == {"train": 27, "val": 3, "test": 30}


def test_settings_are_those_that_the_run_computed_with(outcome: Outcome) -> None:
    rows = {row.key: (row.value, row.origin) for row in gather(outcome).settings}
    assert rows["model.num_heads"] == (2, "command line")
    assert rows["model.drop_path"] == (0.0, "default")
    assert rows["threads"] == (torch.get_num_threads(), "this machine")


def test_the_environment_is_the_one_that_the_run_wrote(outcome: Outcome) -> None:
    written = json.loads((outcome.run.directory / "env.json").read_text())
    assert gather(outcome).environment == written


def test_mistakes_are_the_wrong_answers_most_confident_first(
    outcome: Outcome, colours: Path
) -> None:
    report = gather(outcome)
    classifier = vitkit.load(outcome.run.directory)
    rows = (outcome.run.directory / "split.csv").read_text().splitlines()[1:]
    tested = [row.split(",")[0] for row in rows if row.endswith(",test")]
    expected = [
        (prediction.score, name, prediction.label)
        for name in tested
        if (prediction := classifier.predict(colours / name)[0]).label != Path(name).parent.name
    ]
    expected.sort(reverse=True)
    assert 0 < len(expected) <= MISTAKES_SHOWN
    assert [m.confidence for m in report.mistakes] == pytest.approx([e[0] for e in expected])
    assert {(m.name, m.predicted) for m in report.mistakes} == {e[1:] for e in expected}
    for mistake in report.mistakes:
        assert mistake.truth == Path(mistake.name).parent.name
        assert np.array_equal(mistake.image, fitted(colours / mistake.name, classifier))


def fitted(path: Path, classifier: vitkit.Classifier) -> Any:
    rgb = np.asarray(Image.open(path).convert("RGB"))
    return classifier.preprocess.fit(rgb).transpose(1, 2, 0)


def test_no_more_mistakes_are_shown_than_a_page_holds(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = gather(outcome).mistakes
    monkeypatch.setattr("vitkit.report.gather.MISTAKES_SHOWN", 2)
    assert [m.name for m in gather(outcome).mistakes] == [m.name for m in every[:2]]


def test_every_class_has_a_training_image_as_its_sample(outcome: Outcome, colours: Path) -> None:
    report = gather(outcome)
    assert list(report.samples) == ["blue", "green", "red"]
    rows = (outcome.run.directory / "split.csv").read_text().splitlines()[1:]
    trained = [row.split(",")[0] for row in rows if row.endswith(",train")]
    classifier = vitkit.load(outcome.run.directory)
    for name, image in report.samples.items():
        first = next(file for file in trained if file.startswith(name))
        assert np.array_equal(image, fitted(colours / first, classifier))


def test_grey_pictures_become_rgb(colours: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {**tiny, "epochs": 1, "data.mean": [0.5], "data.std": [0.5]}
    grey = training.train_resolved(colours, resolve(settings), directory=tmp_path / "run")
    image = gather(grey).samples["red"]
    assert image.shape == (8, 8, 3)
    assert np.array_equal(image[..., 0], image[..., 2])


def test_the_page_can_be_written(outcome: Outcome, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", gather(outcome))
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Image classification into 3 classes: vit_tiny_patch16_224 with " in page
    assert "learned from 27 training images in " in page
    assert "tested on 30 held-out images." in page
    assert "vit_tiny_patch16_224" in page
    assert gather(outcome).mistakes[0].name in page


def test_a_run_that_scored_nothing_has_no_report(outcome: Outcome) -> None:
    bare = Outcome(outcome.run, outcome.prepared, outcome.dataset)
    with pytest.raises(DataError, match="nothing to report"):
        gather(bare)


def test_gathering_draws_no_random_numbers(outcome: Outcome) -> None:
    before = torch.get_rng_state()
    gather(outcome)
    assert torch.equal(torch.get_rng_state(), before)
