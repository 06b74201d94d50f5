"""Running a study: equal conditions, crashes, interruptions, more seeds."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import vitkit
from vitkit import api
from vitkit.errors import CheckpointError, ConfigError
from vitkit.progress import Progress
from vitkit.study.conditions import Conditions
from vitkit.study.design import Arm, Study
from vitkit.study.record import Record, read_conditions
from vitkit.study.run import run_study

NAMES = ["teacher-seed-0", "alone-seed-0", "taught-seed-0"]


def directories(study: Path) -> list[str]:
    return sorted(path.name for path in study.iterdir() if path.is_dir())


def settings(study: Path, name: str) -> dict[str, Any]:
    return yaml.safe_load((study / name / "config.yaml").read_text())


def test_each_arm_is_an_ordinary_run(done: Record) -> None:
    assert directories(done.directory) == sorted(NAMES)
    for name in NAMES:
        run = vitkit.Run(done.directory / name)
        assert len(run.metrics) == 2
        assert (run.directory / "report.html").is_file()
        arm = done.results[name.removesuffix("-seed-0")]
        assert run.evaluation is not None
        assert arm.top1 == run.evaluation.top1
        assert arm.spread is None
        assert run.load().classes == ["blue", "green", "red"]


def test_conditions_are_equal(done: Record, colours: Path) -> None:
    alone, taught = (settings(done.directory, name) for name in NAMES[1:])
    differ = {key for key in alone if alone[key] != taught[key]}
    assert differ == {"model", "distill"}
    assert {key for key in alone["model"] if alone["model"][key] != taught["model"][key]} == {
        "pool"
    }
    assert taught["distill"]["teacher"] == str(done.directory / "teacher-seed-0")
    assert alone["distill"]["teacher"] is None
    splits = {(done.directory / name / "split.csv").read_text() for name in NAMES}
    assert len(splits) == 1


def test_the_arm_is_the_run_that_its_settings_give(
    done: Record, colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    given = {**tiny, "epochs": 2, "model.pool": "cls"}
    run = vitkit.train(colours, out=tmp_path / "run", **given)
    assert run.evaluation == vitkit.Run(done.directory / "alone-seed-0").evaluation


def test_cost_is_that_of_the_models_as_they_were_trained(done: Record) -> None:
    for name, result in done.results.items():
        model = vitkit.load(done.directory / f"{name}-seed-0").model
        assert result.first.parameters == sum(p.numel() for p in model.parameters())
    assert done.results["alone"].first.tokens == 5  # 2 x 2 patches and the class token
    assert done.results["teacher"].first.tokens == 0
    assert done.results["teacher"].first.macs == 8 * 8 * 27 * 4 + 4 * 3  # convolution and head


def test_the_record_says_what_was_measured(done: Record) -> None:
    assert done.finished
    saved = json.loads((done.directory / "study.json").read_text())
    assert saved == done.to_json()
    assert [arm["name"] for arm in saved["arms"]] == ["alone", "taught"]
    assert saved["teacher"]["name"] == "teacher"
    assert saved["teacher"]["seconds"] > 0
    outcome = saved["outcome"]
    gap = done.results["taught"].top1 - done.results["alone"].top1
    assert outcome["gap"] == pytest.approx(gap)
    assert outcome["sentence"].startswith("Taught, it names ")


def test_nothing_is_overwritten(small: Study, done: Record, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already; .* or go on with --resume"):
        run_study(small, done.conditions, done.directory)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="exists already; choose another --out$"):
        run_study(small, done.conditions, tmp_path)


def test_a_crash_loses_nothing_of_what_is_done(
    small: Study, done: Record, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, trained = api.train_and_report, []

    def crash(data: Any, resolved: Any, directory: Path, **options: Any) -> Any:
        trained.append(directory.name)
        if directory.name == "taught-seed-0" and len(trained) == 3:
            (directory).mkdir()
            (directory / "split.csv").write_text("half a file")  # before the run began
            raise RuntimeError("power cut")
        return real(data, resolved, directory, **options)

    monkeypatch.setattr(api, "train_and_report", crash)
    out = tmp_path / "study"
    with pytest.raises(RuntimeError, match="power cut"):
        run_study(small, done.conditions, out)
    saved = json.loads((out / "study.json").read_text())
    assert (saved["finished"], saved["outcome"]) == (False, None)
    assert [arm["name"] for arm in saved["arms"]] == ["alone"]
    assert "1 run still to be done" in (out / "study.html").read_text()
    before = {name: (out / name / "metrics.jsonl").stat().st_mtime_ns for name in NAMES[:2]}
    record = run_study(small, read_conditions(out, small), out, resume=True)
    assert trained == [*NAMES, "taught-seed-0"]
    assert before == {name: (out / name / "metrics.jsonl").stat().st_mtime_ns for name in before}
    assert record.finished
    for name, result in record.results.items():  # as if nothing had happened
        assert result.top1 == done.results[name].top1
        assert (
            result.first.history[-1]["val_loss"] == done.results[name].first.history[-1]["val_loss"]
        )


def test_an_interrupted_run_goes_on(small: Study, done: Record, tmp_path: Path) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 1  # after the teacher's first epoch

    out = tmp_path / "study"
    record = run_study(small, done.conditions, out, stop=stop)
    assert not record.finished and record.results == {}
    assert directories(out) == NAMES[:1]
    assert len(vitkit.Run(out / "teacher-seed-0").metrics) == 1
    record = run_study(small, read_conditions(out, small), out, resume=True)
    assert record.finished
    assert record.results["teacher"].top1 == done.results["teacher"].top1


def test_stop_between_two_runs_begins_no_other(small: Study, done: Record, tmp_path: Path) -> None:
    heard: list[Progress] = []
    stopped = run_study(
        small,
        done.conditions,
        tmp_path / "study",
        listen=heard.append,
        stop=lambda: any(progress.phase == "evaluate" for progress in heard),
    )
    assert list(stopped.results) == ["teacher"]
    assert directories(tmp_path / "study") == NAMES[:1]


def test_more_seeds_add_runs(small: Study, done: Record, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shutil.copytree(done.directory, out)
    arms = tuple(replace(arm, taught=False) for arm in small.arms)
    alone = replace(small, teacher=None, arms=arms)
    heard: list[Progress] = []
    record = run_study(
        alone, replace(done.conditions, seeds=2), out, resume=True, listen=heard.append
    )
    begun = [next(iter(p.figures)) for p in heard if p.phase.startswith("run ")]
    assert begun == ["alone, seed 1:", "taught, seed 1:"]
    runs = record.results["alone"].runs
    assert [run.seed for run in runs] == [0, 1]
    tests = []
    for run in runs:
        with open(run.directory / "split.csv", newline="") as file:
            tests.append({r["file_name"] for r in csv.DictReader(file) if r["split"] == "test"})
    assert tests[0] != tests[1]  # another split, since the data has none


def test_a_mistake_in_the_last_arm_is_found_before_the_first_is_trained(
    small: Study, done: Record, tmp_path: Path
) -> None:
    wrong = Arm(name="wrong", title="wrong", settings={"model.heads": 2})
    with pytest.raises(ConfigError, match="heads"):
        run_study(replace(small, arms=(*small.arms, wrong)), done.conditions, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_data_that_is_absent_leaves_the_place_free(
    small: Study, done: Record, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    with pytest.raises(vitkit.DataError, match="does not exist"):
        run_study(small, Conditions(data=str(tmp_path / "absent"), epochs=1), out)
    record = run_study(small, done.conditions, out)
    assert record.finished


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda path: path.unlink(), "holds no study; leave --resume out"),
        (lambda path: path.write_text("{"), "cannot be read"),
        (lambda path: path.write_text("[]"), "holds the study None"),
        (lambda path: path.write_text('{"study": "other"}'), "holds the study 'other'"),
        (lambda path: path.write_text('{"study": "small"}'), "with other settings"),
    ],
)
def test_what_is_no_such_study_does_not_go_on(
    small: Study, done: Record, tmp_path: Path, change: Any, complaint: str
) -> None:
    path = tmp_path / "study.json"
    shutil.copy(done.directory / "study.json", path)
    assert read_conditions(tmp_path, small) == done.conditions
    change(path)
    with pytest.raises(CheckpointError, match=complaint):
        read_conditions(tmp_path, small)


def test_a_study_that_was_declared_anew_does_not_go_on(small: Study, done: Record) -> None:
    changed = replace(small, common={**small.common, "lr": 1e-3})
    with pytest.raises(CheckpointError, match="was begun with other settings than small now has"):
        read_conditions(done.directory, changed)


def test_data_without_held_out_images_has_nothing_to_compare(
    small: Study, colours: Path, tmp_path: Path
) -> None:
    none = {"data.test_fraction": 0.0, "data.val_fraction": 0.0}
    conditions = Conditions(data=os.fspath(colours), epochs=1, settings=none)
    with pytest.raises(vitkit.DataError, match="no held-out image to compare arms by"):
        run_study(small, conditions, tmp_path / "study")
