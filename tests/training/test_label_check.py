import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import vitkit
from vitkit.data.check.run import DataCheck, check_data
from vitkit.data.sources import Source, open_source
from vitkit.errors import DataError
from vitkit.training.label_check import (
    _quick,
    check_by_classifier,
    check_by_folds,
    trained_on,
)

WRONG = ("blue/03.png", "green/07.png", "red/11.png")


@pytest.fixture(scope="module")
def mislabelled(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """`colours` with one image of each class under the label of the next."""
    folder = tmp_path_factory.mktemp("wrong")
    shutil.copytree(colours, folder / "x")
    classes = ("blue", "green", "red")
    with open(folder / "x.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file_name", "label"))
        for image in sorted(colours.rglob("*.png")):
            name = f"{image.parent.name}/{image.name}"
            number = classes.index(image.parent.name) + (name in WRONG)
            rows.writerow((f"x/{name}", classes[number % 3]))
    return open_source(folder / "x.csv")


@pytest.fixture(scope="module")
def checked(mislabelled: Source) -> DataCheck:
    return check_data(mislabelled)


def test_folds_find_them(mislabelled: Source, checked: DataCheck, tiny: dict[str, Any]) -> None:
    found = check_by_folds(mislabelled, checked, 2, {**tiny, "epochs": 10})
    names = [mislabelled.samples[row].name for row in found.rows.tolist()]
    assert set(names[:3]) == {f"x/{name}" for name in WRONG}
    assert (found.scored, found.left_out) == (60, 0)
    assert 0.9 < found.agreement <= 57 / 60
    assert found.how == (
        "2 models (vit_tiny_patch16_224, 10 epochs), each trained on the other folds"
    )
    data = json.loads(json.dumps(found.to_json(mislabelled)))
    first = data["likely_wrong"][0]
    right = first["file"].split("/")[1]
    assert first["suggested"] == right and first["label"] != right
    assert first["suspicion"] == max(row["suspicion"] for row in data["likely_wrong"])


def test_a_quick_run_is_the_default(
    mislabelled: Source, checked: DataCheck, tiny: dict[str, Any]
) -> None:
    settings = {key: value for key, value in tiny.items() if key != "epochs"}
    assert ", 60 epochs)" in check_by_folds(mislabelled, checked, 2, settings).how
    assert _quick({}, 20_000) == {"epochs": 20} and _quick({}, 10**6) == {"epochs": 8}
    assert _quick(["minutes=2"], 100) == {"minutes": 2}


def test_a_run_is_not_asked_about_what_it_learned(
    mislabelled: Source, checked: DataCheck, finished: vitkit.Run
) -> None:
    found = check_by_classifier(mislabelled, checked, finished.load())
    learned = trained_on(finished.directory)
    assert learned is not None
    fresh = [
        sample.name
        for sample, key in zip(mislabelled.samples, checked.keys, strict=True)
        if key is not None and key.hex() not in learned
    ]
    assert 0 < len(fresh) < 60
    assert (found.scored, found.left_out) == (len(fresh), 60 - len(fresh))
    names = [mislabelled.samples[row].name for row in found.rows.tolist()]
    assert set(names) <= set(fresh)
    assert {f"x/{name}" for name in WRONG} & set(fresh) <= set(names)
    assert found.how.endswith("on images that it was not trained on")


def test_weights_alone_do_not_tell_what_they_learned(
    mislabelled: Source, checked: DataCheck, finished: vitkit.Run, tmp_path: Path
) -> None:
    finished.load().save(tmp_path / "alone")
    found = check_by_classifier(mislabelled, checked, vitkit.load(tmp_path / "alone"))
    assert found.scored == 60
    assert "which does not tell what it was trained on" in found.how
    assert {mislabelled.samples[row].name for row in found.rows[:3].tolist()} == {
        f"x/{name}" for name in WRONG
    }


def test_nothing_but_what_was_learned(finished: vitkit.Run, colours: Path, tmp_path: Path) -> None:
    with open(finished.directory / "split.csv", newline="") as file:
        trained = [row["file_name"] for row in csv.DictReader(file) if row["split"] == "train"]
    for name in trained:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(colours / name, tmp_path / name)
    source = open_source(tmp_path)
    with pytest.raises(DataError, match="was trained on every image of .*; use --folds 2"):
        check_by_classifier(source, check_data(source), finished.load())


def test_a_class_that_the_model_does_not_know(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    shutil.copytree(colours / "red", tmp_path / "red")
    shutil.copytree(colours / "blue", tmp_path / "violet")
    source = open_source(tmp_path)
    with pytest.raises(DataError, match="has the class 'violet'; the model knows only blue"):
        check_by_classifier(source, check_data(source), finished.load())


def test_no_image_can_be_read(finished: vitkit.Run, tmp_path: Path) -> None:
    for name in ("blue", "green"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"no image")
    source = open_source(tmp_path)
    check = check_data(source)
    with pytest.raises(DataError, match="no image that can be read"):
        check_by_folds(source, check, 2)
    with pytest.raises(DataError, match="no image that can be read"):
        check_by_classifier(source, check, finished.load())
