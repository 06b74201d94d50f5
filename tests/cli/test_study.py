"""`vitkit study`: what it lists, runs and prints."""

import json
from pathlib import Path
from typing import Any

import pytest

from vitkit.study import catalogue
from vitkit.study.design import Arm, Study
from vitkit.study.outcome import better


@pytest.fixture(autouse=True)
def small(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study that takes a moment, beside the real ones."""
    study = Study(
        name="small",
        question="Which?",
        claim="The mean is better.",
        source="nowhere",
        common=tiny,
        arms=(
            Arm(name="cls", title="class token", settings={"model.pool": "cls"}),
            Arm(name="mean", title="mean", settings={"model.pool": "mean"}),
        ),
        outcome=lambda r: better(r, ("mean", "The mean names"), ("cls", "the token"), gap_is="x"),
        epochs=2,
    )
    monkeypatch.setattr(catalogue, "STUDIES", (*catalogue.STUDIES, study))
    return study


def test_without_a_name_all_are_listed(vitkit_command) -> None:
    done = vitkit_command("study")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines][:2] == ["vit-vs-cnn", "data-size"]
    assert len(lines) == len(catalogue.STUDIES) == 9
    assert lines[-1] == "small         Which?"
    assert max(map(len, lines)) <= 100
    listed = json.loads(vitkit_command("study", "--json").out)
    assert [entry["name"] for entry in listed] == [study.name for study in catalogue.STUDIES]
    assert listed[-1]["question"] == "Which?"


def test_a_study_is_run_and_shown(
    vitkit_command, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = vitkit_command("study", "small", "lr=1e-3", "--data", colours)
    assert done.code == 0
    out = Path("runs", "study-small")
    saved = json.loads((out / "study.json").read_text())
    assert saved["conditions"]["settings"] == {"lr": 1e-3}
    assert (saved["conditions"]["epochs"], saved["conditions"]["data"]) == (2, str(colours))
    lines = done.out.splitlines()
    for line, arm in zip(lines[1:3], saved["arms"], strict=True):
        assert line.startswith(f"{arm['title']:<11}  {100 * arm['top1']:>6.2f}")
    assert saved["outcome"]["sentence"] in lines
    assert lines[-1] == f"page  {out / 'study.html'}"
    assert "run 1/2      class token: 2 epochs" in done.err
    assert "run 2/2      mean: 2 epochs" in done.err
    again = vitkit_command("study", "small")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "runs/study-small exists already; choose another --out, or go on with" in again.err
    done = vitkit_command("study", "small", "--resume", "--json")
    assert done.code == 0
    assert json.loads(done.out) == saved  # nothing was trained again


def test_seeds_and_epochs(vitkit_command, colours: Path, tmp_path: Path) -> None:
    options = ("--epochs", 1, "--seeds", 2, "--out", tmp_path / "study", "--json")
    done = vitkit_command("study", "small", "--data", colours, *options)
    assert done.code == 0
    arms = json.loads(done.out)["arms"]
    assert [[run["seed"] for run in arm["runs"]] for arm in arms] == [[0, 1], [0, 1]]
    assert {run["epochs"] for arm in arms for run in arm["runs"]} == {1}
    assert all(arm["spread"] is not None for arm in arms)
    assert "run 3/4      class token, seed 1: 1 epoch" in done.err


def test_an_interrupt_is_saved(
    vitkit_command, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitkit.study import run as running

    real = running.run_study

    def interrupted(*args: Any, stop: Any, **options: Any) -> Any:
        return real(*args, stop=lambda: True, **options)

    monkeypatch.setattr(running, "run_study", interrupted)
    out = tmp_path / "study"
    done = vitkit_command("study", "small", "--data", colours, "--out", out)
    assert (done.code, done.out) == (130, "")
    assert f"to go on:\n  vitkit study small --out {out} --resume\n" in done.err
    monkeypatch.undo()
    monkeypatch.setattr(catalogue, "STUDIES", catalogue.STUDIES)


def test_unreadable_images_are_told_of(
    vitkit_command, colours: Path, tmp_path: Path, small: Study
) -> None:
    import shutil

    shutil.copytree(colours, tmp_path / "data")
    (tmp_path / "data" / "red" / "00.png").write_bytes(b"no image")
    options = ("--data", tmp_path / "data", "--out", tmp_path / "study", "--epochs", 1)
    done = vitkit_command("study", "small", *options, "data.max_unreadable=0.1")
    assert done.code == 1
    assert "unreadable images left out: 1, listed in" in done.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["smal"], "no study is called 'smal', did you mean 'small'?"),
        (["small", "--epochs", "1", "--minutes", "1"], "epochs and minutes are both given"),
        (["small", "model.pool=cls"], "model.pool is what small compares"),
        (["small", "lr=-1"], "lr=-1"),
        (["small", "--resume"], "holds no study; leave --resume out to start one"),
        (["small", "--data", "absent.zip"], "absent.zip does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_in_the_way(
    vitkit_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = vitkit_command("study", *arguments)
    assert (done.code, done.out) == (2, "")
    assert complaint in done.err.splitlines()[-1]
    assert not any(tmp_path.glob("runs/*/*/config.yaml"))
