import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from html_page import Page
from vitkit.report import examine as module
from vitkit.report.examine import doubt_labels, examine
from vitkit.report.gather import gather
from vitkit.report.page import render
from vitkit.training.plan import plan
from vitkit.training.run import Outcome, train_resolved


@pytest.fixture(scope="module")
def outcome(
    colours: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """A run on `colours` in which a test image is nearly one of train, and a label is wrong."""
    data = tmp_path_factory.mktemp("examined")
    shutil.copytree(colours, data / "train")
    shutil.copytree(colours, data / "test")
    random = np.random.default_rng(9)
    for image in sorted((data / "test").rglob("*.png")):
        pixels = np.asarray(Image.open(image)).astype(int)
        if image.name == "03.png":
            pixels = np.clip(pixels + random.integers(-3, 4, pixels.shape), 0, 255)
        else:
            pixels = pixels[random.permutation(12)][:, random.permutation(10)]
        Image.fromarray(pixels.astype(np.uint8)).save(image)
    (data / "test" / "red" / "07.png").rename(data / "test" / "blue" / "wrong.png")
    settings = {**tiny, "epochs": 12, "data.image_size": 16, "data.val_fraction": 0.1}
    return train_resolved(data, plan(data, settings), directory=data / "run")


def test_near_copies_in_the_runs_splits(outcome: Outcome) -> None:
    check = examine(outcome)
    assert check is not None
    leaks = {check.samples[copy.row].name for copy in check.leaks if not copy.exact}
    assert {f"test/{label}/03.png" for label in ("blue", "green", "red")} <= leaks
    assert {check.samples[copy.row].split for copy in check.leaks} <= {"test", "val"}


def test_wrong_labels_among_the_images_tested_on(outcome: Outcome) -> None:
    labels = doubt_labels(outcome)
    assert labels is not None and labels.scored == 60
    first = outcome.prepared.source.samples[int(labels.rows[0])].name
    assert first == "test/blue/wrong.png"
    assert outcome.prepared.source.classes[labels.suggested[0]] == "red"


def test_the_report_says_so(outcome: Outcome) -> None:
    report = gather(outcome)
    assert report.near_leaks >= 3
    titles = [shelf.title for shelf in report.found]
    assert {"Shared between splits", "Likely wrong labels"} <= set(titles)
    page = Page(render(report))
    assert "to test on nearly the same as one that was trained on or chosen by" in page.words
    assert "A closer look: shared between splits" in page.words


def test_what_is_not_in_memory_is_not_examined(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPARED", 50)
    assert examine(outcome) is None
    assert gather(outcome).found == []
