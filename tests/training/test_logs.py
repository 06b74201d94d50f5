"""Rows for TensorBoard, Weights & Biases, MLflow and trackio, which never stop training."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vitkit
import vitkit.training.logs as logs
from vitkit.errors import ConfigError, MissingExtra
from vitkit.progress import Progress, silent
from vitkit.training.logs import LOGS, check_installed, identity, sending
from vitkit.training.settings import TrainSettings

ROWS = [
    {"epoch": 1, "step": 5, "train_loss": 1.5, "val_top1": 0.25, "val_loss": None},
    {"epoch": 2, "step": 10, "train_loss": 1.25, "val_top1": 0.5, "val_loss": None},
]
RANKS = Path(__file__).with_name("ranks.py")
CONFIG = {"lr": 0.1, "model.name": "vit"}


class Heard:
    """A listener that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def __call__(self, progress: Progress) -> None:
        self.notes.append(progress.figures[""])


def send_all(name: str, directory: Path, listen: Any = silent, step: int = 0) -> None:
    with sending([name], directory, CONFIG, step, listen) as send:
        for row in ROWS:
            send(row)


def scalars(directory: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(directory / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_gets_every_figure_and_a_resumed_run_writes_none_twice(tmp_path: Path) -> None:
    send_all("tensorboard", tmp_path)
    assert scalars(tmp_path, "train_loss") == [(5, 1.5), (10, 1.25)]
    assert scalars(tmp_path, "val_top1") == [(5, 0.25), (10, 0.5)]
    with sending(["tensorboard"], tmp_path, CONFIG, 5, silent) as send:  # from after the first row
        send(ROWS[1])
    assert scalars(tmp_path, "train_loss") == [(5, 1.5), (10, 1.25)]


def run_of(calls: list[Any]) -> SimpleNamespace:
    """What wandb and trackio call a run."""
    return SimpleNamespace(
        log=lambda row, step: calls.append((step, row)), finish=lambda: calls.append("finish")
    )


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_runs_of_wandb_and_trackio_get_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls: list[Any] = []
    fake = ModuleType(name)
    fake.init = lambda **given: (calls.append(given), run_of(calls))[1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, fake)
    send_all(name, tmp_path)
    given, *rows, end = calls
    assert (given["project"], given["resume"], given["config"]) == ("vitkit", "allow", CONFIG)
    assert identity(tmp_path) in (given.get("id"), given["name"])
    first = {"epoch": 1, "step": 5, "train_loss": 1.5, "val_top1": 0.25}
    assert rows[0] == (5, first) and rows[1][0] == 10 and end == "finish"


def test_a_name_is_of_one_directory_and_fit_for_an_address(tmp_path: Path) -> None:
    names = {identity(tmp_path / name) for name in ("a b", "a/b", "a?b", "a:b", "é" * 90)}
    assert len(names) == 5
    assert all(set("/\\#?%: ").isdisjoint(name) and len(name) < 64 for name in names)
    assert identity(tmp_path) == identity(tmp_path)


class Failing:
    """A log that fails where it is told to."""

    def __init__(self, where: str) -> None:
        self.where, self.rows = where, 0
        self.fail("start")

    def fail(self, where: str) -> None:
        if self.where == where:
            raise SystemExit("no\nnetwork")

    def send(self, row: Any) -> None:
        self.rows += 1
        self.fail(f"row {self.rows}")

    def close(self) -> None:
        self.fail("close")


@pytest.mark.parametrize("where", ["start", "row 1", "row 2", "close"])
def test_a_log_that_fails_is_spoken_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    heard = Heard()
    monkeypatch.setitem(LOGS, "wandb", lambda *given: Failing(where))
    send_all("wandb", tmp_path, heard)
    said = "log=wandb failed and gets no more rows (SystemExit: no network); training goes on"
    assert heard.notes == [said]


def test_a_log_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end, heard = threading.Event(), Heard()
    monkeypatch.setattr(logs, "PATIENCE", 0.1)
    monkeypatch.setattr(logs, "WAITING", 1)
    monkeypatch.setitem(LOGS, "mlflow", lambda *given: end.wait())
    started = time.monotonic()
    send_all("mlflow", tmp_path, heard)
    assert time.monotonic() - started < 5
    assert heard.notes == [
        "log=mlflow failed and gets no more rows (it is 1 rows behind); training goes on"
    ]
    end.set()


def test_what_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="log=trackio needs trackio: pip install trackio"):
        check_installed(["trackio"])


def test_a_run_goes_to_a_log_and_its_rows_to_metrics(
    colours: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Progress] = []
    monkeypatch.setitem(LOGS, "wandb", lambda *given: Failing("row 1"))
    monkeypatch.setattr("vitkit.training.prepare.check_installed", lambda names: None)
    run = vitkit.train(
        colours, out=tmp_path / "run", listen=heard.append, log=["tensorboard", "wandb"], **tiny
    )
    losses = [(row["step"], pytest.approx(row["train_loss"])) for row in run.metrics]
    assert len(losses) == tiny["epochs"]
    assert scalars(run.directory, "train_loss") == losses
    assert any("log=wandb failed" in p.figures.get("", "") for p in heard if p.phase == "note")
    shutil.rmtree(run.directory / "tensorboard")


def test_one_name_is_a_list_of_one() -> None:
    assert TrainSettings(log="wandb").log == ("wandb",)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="log"):
        vitkit.train("digits", log="stdout")


def test_of_many_ranks_only_the_first_sends(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**tiny, "epochs": 1, "log": ["tensorboard"], "threads": 1}
    job = {"data": str(colours), "out": str(tmp_path / "run"), "settings": settings}
    (tmp_path / "jobs").write_text(json.dumps([job]))
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *launcher, str(RANKS), str(tmp_path / "jobs")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
