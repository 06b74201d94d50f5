"""When a run is saved, and what of it."""

import json
import time
from pathlib import Path

import pytest

import vitkit.training.saving as saving
from vitkit.errors import CheckpointError, ConfigError
from vitkit.models.backbone import Backbone
from vitkit.training.checkpoint import BEST, LAST, PREVIOUS
from vitkit.training.config import resolve
from vitkit.training.directory import METRICS
from vitkit.training.distributed import SOLO
from vitkit.training.every import Every
from vitkit.training.position import Position
from vitkit.training.saving import DEAREST, LONGEST, Saver

Clock = list[float]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still until it is told otherwise."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def a_saver(directory: Path, monkeypatch: pytest.MonkeyPatch, every: str | None = None) -> Saver:
    """One whose model is its number, which is all that is written."""
    monkeypatch.setattr(saving.tune, "merge_lora", lambda model: model)
    monkeypatch.setattr(
        saving, "save_state", lambda fresh, learner, at: (fresh / "step").write_text(str(at.step))
    )

    def write(fresh: Path, model: Backbone) -> None:
        (fresh / "model").write_text(str(model))

    return Saver(
        directory,
        learner=Learner(),  # type: ignore[arg-type]
        position=Position(),
        write=write,
        every=None if every is None else Every.parse(every),
        saved_at=time.monotonic(),
    )


class Learner:
    """What a saver asks of one."""

    def __init__(self) -> None:
        self.predictor = Model(0)
        self.group = SOLO


class Model(int):
    def cpu(self) -> "Model":
        return self


def written(directory: Path) -> dict[str, tuple[str, str]]:
    """Weights and step of each checkpoint that is there."""
    there = [path for path in directory.iterdir() if (path / "model").is_file()]
    steps = {path: path / "step" for path in there}
    return {
        path.name: ((path / "model").read_text(), step.read_text() if step.is_file() else "")
        for path, step in steps.items()
    }


def row(epoch: int) -> dict[str, int]:
    return {"epoch": epoch, "step": 10 * epoch}


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("500 steps", 500, "step"),
        ("1 step", 1, "step"),
        ("10 minutes", 10, "minute"),
        ("0.5 minutes", 0.5, "minute"),
        ("2epochs", 2, "epoch"),
        (" 3 epochs ", 3, "epoch"),
    ],
)
def test_a_time_is_a_number_and_a_unit(text: str, number: float, unit: str) -> None:
    assert Every.parse(text) == Every(number, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "10", "minutes", "0 steps", "1.5 epochs", "-1 steps", "1 s"])
def test_any_other_is_refused_with_examples(text: str) -> None:
    assert Every.parse(text) is None
    with pytest.raises(ConfigError, match=r"^checkpoint.every=.*: write '500 steps', '10 min"):
        resolve({"checkpoint.every": text})


def test_steps_minutes_and_epochs_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    saver = a_saver(tmp_path, monkeypatch, "3 steps")
    due = []
    for saver.position.step in range(1, 8):
        due.append(saver.due())
    assert due == [False, False, True, False, False, True, False]
    saver = a_saver(tmp_path, monkeypatch, "2 epochs")
    assert [saver.due(), saver.due(epoch=1), saver.due(epoch=2)] == [False, False, True]
    assert saver.due(epoch=4, scored=False)
    saver = a_saver(tmp_path, monkeypatch, "5 minutes")
    clock[0] += 299
    assert not saver.due(epoch=4)
    clock[0] += 1
    assert saver.due()


def test_where_nobody_says_an_epoch_is_saved_unless_that_is_dear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    saver = a_saver(tmp_path, monkeypatch)
    assert saver.due(epoch=1) and not saver.due()  # the first costs nothing yet
    assert not saver.due(epoch=1, scored=False)
    saver.cost = 1.0
    clock[0] += 1 / DEAREST - 0.5
    assert not saver.due(epoch=2)
    clock[0] += 0.5
    assert saver.due(epoch=2) and not saver.due()
    clock[0] = saver.saved_at + LONGEST
    assert saver.due()  # a step in the middle of an epoch
    saver.cost = 2 * LONGEST * DEAREST
    assert not saver.due() and not saver.due(epoch=2)


def test_the_best_weights_wait_for_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = a_saver(tmp_path, monkeypatch, "3 epochs")
    for epoch, best in ((1, True), (2, True), (3, False), (4, True)):
        saver.learner.predictor = Model(epoch)  # type: ignore[misc]
        saver.position.step = 10 * epoch
        saver.add_row(row(epoch), is_best=best)
    assert written(tmp_path) == {BEST: ("2", ""), LAST: ("3", "30")}
    saver.save()
    assert written(tmp_path) == {BEST: ("4", ""), LAST: ("4", "40"), PREVIOUS: ("3", "30")}
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [row(epoch) for epoch in (1, 2, 3, 4)]


def test_what_is_saved_is_not_saved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = a_saver(tmp_path, monkeypatch)
    saver.position.step = 10
    saver.add_row(row(1), is_best=True)
    saver.save()
    assert written(tmp_path) == {BEST: ("0", ""), LAST: ("0", "10")}


def test_a_disk_that_takes_no_row_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / METRICS).mkdir()  # nothing can be added to a directory
    with pytest.raises(CheckpointError, match=f"{METRICS} cannot be written: .*--resume"):
        a_saver(tmp_path, monkeypatch).add_row(row(1), is_best=True)
