"""Rows of figures for the eyes of others: TensorBoard, Weights & Biases, MLflow, trackio.

`metrics.jsonl` is the record; these get copies of its rows, each in a thread of its own. Whatever
one of them does, raise or hang, training goes on.
"""

import contextlib
import importlib.util
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol

from vitkit.errors import MissingExtra
from vitkit.progress import Listener, note
from vitkit.training.position import Row

Name = Literal["tensorboard", "wandb", "mlflow", "trackio"]

PROJECT = "vitkit"  # under which runs are listed there
PATIENCE = 10.0  # seconds that the end of a run waits for what was not sent yet
WAITING = 1000  # rows that may wait


class Log(Protocol):
    """What a row is sent to."""

    def send(self, row: Mapping[str, float]) -> None:
        """Note the figures of a row, `step` and `epoch` among them."""

    def close(self) -> None:
        """Finish what was begun."""


class TensorBoard:
    """Event files in `tensorboard/` of the run; what a resumed run writes again replaces them."""

    def __init__(self, directory: Path, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def send(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, int(row["step"]))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, resumed by the name of the directory; WANDB_* variables count."""

    def __init__(self, directory: Path, config: Mapping[str, Any], step: int) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=directory.name,
            id=identity(directory),
            resume="allow",
            dir=str(directory),
            config=dict(config),
        )

    def send(self, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step=int(row["step"]))

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI or in `mlflow.db` of the run's directory."""

    def __init__(self, directory: Path, config: Mapping[str, Any], step: int) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self.metric = Metric
        own = f"sqlite:///{(directory / 'mlflow.db').absolute()}"
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", own))
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        known = experiment and experiment.experiment_id
        place = None if known else str((directory / "mlartifacts").absolute())
        where = known or self.client.create_experiment(name, artifact_location=place)
        tag = {"vitkit.run": identity(directory)}
        query = f"tags.`vitkit.run` = '{tag['vitkit.run']}'"
        before = self.client.search_runs([where], query, max_results=1)
        if before:
            self.run = before[0].info.run_id
        else:
            self.run = self.client.create_run(where, run_name=directory.name, tags=tag).info.run_id
            params = [Param(key, str(value)[:500]) for key, value in config.items()]
            self.client.log_batch(self.run, params=params[:100])

    def send(self, row: Mapping[str, float]) -> None:
        now, step = int(1000 * time.time()), int(row["step"])
        metrics = [self.metric(name, float(value), now, step) for name, value in row.items()]
        self.client.log_batch(self.run, metrics=metrics)

    def close(self) -> None:
        self.client.set_terminated(self.run)


class Trackio:
    """A run of trackio, where TRACKIO_DIR or TRACKIO_SPACE_ID say, or its own folder."""

    def __init__(self, directory: Path, config: Mapping[str, Any], step: int) -> None:
        import trackio

        self.run = trackio.init(
            project=PROJECT, name=identity(directory), config=dict(config), resume="allow"
        )

    def send(self, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step=int(row["step"]))

    def close(self) -> None:
        self.run.finish()


LOGS: dict[str, Callable[[Path, Mapping[str, Any], int], Log]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def identity(directory: Path) -> str:
    """A name for a run that is the same when it goes on, and another for another directory."""
    mark = blake2b(os.fsencode(directory.absolute()), digest_size=4).hexdigest()
    name = "".join(letter if letter.isalnum() else "-" for letter in directory.name)
    return f"{name[:50]}-{mark}"


def check_installed(names: Sequence[str]) -> None:
    """See to it that what rows are to be sent to is there.

    Raises:
        MissingExtra: it is not; the message says how to get it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(f"log={name} needs {name}: pip install {name}; or leave log out")


class Sender:
    """One log with its thread; the first thing that goes wrong ends it and is said, once."""

    def __init__(self, name: str, make: Callable[[], Log], listen: Listener) -> None:
        self.name, self.make, self.listen = name, make, listen
        self.failed, self.told = "", False
        self.rows: queue.Queue[Mapping[str, float] | None] = queue.Queue(WAITING)
        self.thread = threading.Thread(target=self.work, name=f"log {name}", daemon=True)
        self.thread.start()

    def work(self) -> None:
        """The thread's life."""
        try:
            log = self.make()
            while (row := self.rows.get()) is not None:
                log.send(row)
            log.close()
        except BaseException as error:  # a logger may call sys.exit
            self.failed = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

    def send(self, row: Mapping[str, float]) -> None:
        """Pass a row on; from the training thread."""
        try:
            if not self.failed:
                self.rows.put_nowait(row)
        except queue.Full:
            self.failed = f"it is {WAITING} rows behind"
        self.complain()

    def complain(self) -> None:
        """Say what went wrong, if it was not said."""
        if self.failed and not self.told:
            self.told = True
            text = f"log={self.name} failed and gets no more rows ({self.failed}); training goes on"
            self.listen(note(text))

    def close(self, until: float) -> None:
        """Wait for what was not sent yet, until then."""
        with contextlib.suppress(queue.Full):
            self.rows.put_nowait(None)
        self.thread.join(max(until - time.monotonic(), 0.0))
        if self.thread.is_alive():
            self.failed = self.failed or f"it did not end within {PATIENCE:.0f} seconds"
        self.complain()


@contextlib.contextmanager
def sending(
    names: Sequence[str],
    directory: Path,
    config: Mapping[str, Any],
    step: int,
    listen: Listener,
) -> Iterator[Callable[[Row], None]]:
    """A function that sends rows to all logs of these names, from `step` on.

    `config` are the settings of the run, by their dotted keys.
    """
    senders = [Sender(name, partial(LOGS[name], directory, config, step), listen) for name in names]

    def send(row: Row) -> None:
        figures = {name: value for name, value in row.items() if value is not None}
        for sender in senders:
            sender.send(figures)

    try:
        yield send
    finally:
        until = time.monotonic() + PATIENCE
        for sender in senders:
            sender.close(until)
