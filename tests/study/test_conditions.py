"""What all arms of a study have in common, and what of it may change when the study goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitkit.errors import CheckpointError, ConfigError
from vitkit.study.conditions import Conditions, make_conditions, settings_for
from vitkit.study.design import Study

SAVED = Conditions(data="shapes", epochs=5, seeds=2, settings={"lr": 0.1, "threads": 1})


def test_defaults(small: Study) -> None:
    conditions = make_conditions(small)
    assert conditions == Conditions(data="digits", epochs=20, minutes=None, seeds=1, settings={})
    assert make_conditions(small, minutes=2.5) == Conditions(minutes=2.5)


def test_data_are_found_from_elsewhere(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert make_conditions(small, data="pets").data == str(tmp_path / "pets")
    assert make_conditions(small, data=Path("digits")).data == str(tmp_path / "digits")
    for name in ("digits", "shapes:count=20", "absent.zip"):
        assert make_conditions(small, data=name).data == name


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"epochs": 3, "minutes": 2}, "epochs and minutes are both given"),
        ({"epochs": 0}, "epochs=0 must be above 0"),
        ({"minutes": -1}, "minutes=-1 must be above 0"),
        ({"seeds": 0}, "seeds=0 must be above 0"),
        ({"settings": {"model.pool": "mean"}}, "model.pool is what small compares; leave it out"),
        ({"settings": {"seed": 3}}, "seed is not a setting of a study; use --seeds"),
        ({"settings": {"epochs": 3}}, "epochs is not a setting of a study; use --epochs"),
    ],
)
def test_what_cannot_be(small: Study, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_conditions(small, **given)


def test_settings_have_an_order(small: Study) -> None:
    alone, taught = small.arms
    conditions = Conditions(data="shapes", epochs=7, settings={"lr": 0.5, "batch_size": 8})
    settings = settings_for(small, taught, conditions, seed=3, teacher=Path("/t"))
    assert settings == {
        **small.common,
        "model.pool": "mean",
        "epochs": 7,
        "lr": 0.5,
        "batch_size": 8,
        "distill.teacher": "/t",
        "seed": 3,
    }
    assert "distill.teacher" not in settings_for(small, alone, conditions, seed=3)
    assert small.teacher is not None
    settings = settings_for(small, small.teacher, conditions, seed=0)
    assert (settings["recipe"], settings["lr"]) == ("cnn", 0.5)
    assert "model.patch_size" not in settings  # of the arms, not of the teacher
    given = Conditions(data="shapes", epochs=7, settings={"model.depth": 3, "threads": 1})
    assert settings_for(small, alone, given, seed=0)["model.depth"] == 3
    settings = settings_for(small, small.teacher, given, seed=0)
    assert "model.depth" not in settings and settings["threads"] == 1


def test_only_digits_are_known_to_have_a_handedness(small: Study) -> None:
    for data, expected in (("digits", {"augment.mirror": False}), ("shapes", {})):
        settings = settings_for(small, small.arms[0], Conditions(data=data, epochs=1), seed=0)
        assert {k: v for k, v in settings.items() if k == "augment.mirror"} == expected


def test_a_study_goes_on_as_it_was_begun(small: Study) -> None:
    assert make_conditions(small, saved=SAVED) == SAVED
    assert make_conditions(small, data="shapes", epochs=5, seeds=2, saved=SAVED) == SAVED
    more = make_conditions(small, seeds=3, settings={"threads": 2, "lr": 0.1}, saved=SAVED)
    assert more == replace(SAVED, seeds=3, settings={"lr": 0.1, "threads": 2})


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"data": "digits"}, "--data digits differs from the study, which has shapes"),
        ({"epochs": 6}, "--epochs 6 differs from the study, which has 5; leave it out"),
        ({"minutes": 6}, "--minutes 6 differs from the study, which has None"),
        ({"seeds": 1}, "--seeds 1 differs from the study, which has 2"),
        ({"settings": {"lr": 0.2}}, "lr 0.2 differs from the study, which has 0.1"),
        ({"settings": {"ema": 0.2}}, "ema 0.2 differs from the study, which has its default"),
    ],
)
def test_and_not_otherwise(small: Study, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_conditions(small, **given, saved=SAVED)


def test_they_survive_a_file() -> None:
    assert Conditions.from_json(SAVED.to_json()) == SAVED
    for damaged in (None, [], {"dta": 1}):
        with pytest.raises(CheckpointError, match="no conditions of a study"):
            Conditions.from_json(damaged)


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        (Conditions(epochs=1), "1 epoch"),
        (Conditions(epochs=20), "20 epochs"),
        (Conditions(minutes=0.5), "0.5 minutes"),
        (Conditions(minutes=1), "1 minute"),
    ],
)
def test_length_in_words(conditions: Conditions, words: str) -> None:
    assert conditions.length == words
