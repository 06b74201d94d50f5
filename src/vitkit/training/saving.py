"""When a run is saved: often enough to lose little, seldom enough to cost little."""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vitkit.models.backbone import Backbone
from vitkit.training import tune
from vitkit.training.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    replacing_directory,
    save_state,
    writing,
)
from vitkit.training.directory import METRICS
from vitkit.training.distributed import agreed
from vitkit.training.every import Every
from vitkit.training.parallel import is_sharded
from vitkit.training.position import Position, Row
from vitkit.training.step import Learner
from vitkit.whole_file import sync

DEAREST = 0.01  # share of the time that saving may take but for its first and last, by itself
LONGEST = 600.0  # seconds without saving, there


@dataclass(slots=True)
class Saver:
    """A run's rows of figures, `best/` and `last/`.

    Without `every` the end of an epoch is saved, and after ten minutes any step, unless the last
    time took more than 1 % of the time since. The best weights stay in memory until then: a run
    that dies before goes on from `last/`, and comes to the same weights again.

    All ranks of a run ask the same of theirs, as each may hold a part; the first one writes.
    """

    directory: Path
    learner: Learner
    position: Position
    write: Callable[[Path, Backbone], None]  # puts a model to predict with into a directory
    every: Every | None = None
    tell: Callable[[Row], None] = lambda row: None  # hears of every row too
    best: Backbone | None = None  # better than what `best/` holds; of use to the first rank only
    saved_step: int = -1
    saved_at: float = field(default_factory=time.monotonic)
    cost: float = 0.0  # seconds that it took the last time

    def due(self, *, epoch: int | None = None, scored: bool = True) -> bool:
        """Whether to save after this step, with which the `epoch` of that number ended, if one.

        Where nobody says how often, one that was not `scored` is not worth it.
        """
        since = time.monotonic() - self.saved_at
        if self.every is None:
            worth = since * DEAREST >= self.cost
            return worth and (epoch is not None and scored or since >= LONGEST)
        if self.every.unit == "minute":
            return since >= 60 * self.every.number
        if self.every.unit == "step":
            return self.position.step % self.every.number == 0
        return epoch is not None and epoch % self.every.number == 0

    def add_row(self, row: Row, *, is_best: bool) -> None:
        """Write the figures of an epoch, keep the weights if they are the best, and save if due.

        Raises:
            CheckpointError: the disk does not take it.
        """
        group = self.learner.group
        if group.first:
            path = self.directory / METRICS
            with writing(path), open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self.tell(row)
        due = agreed(group, save=self.due(epoch=row["epoch"])).save
        if is_best:
            best = self.predictor()
            self.best = best if due or not group.first else copy.deepcopy(best).cpu()
        if due:
            self.save()

    def save(self) -> None:
        """Write the state as it is, unless that was done.

        Raises:
            CheckpointError: the disk does not take it; what was written before is still there.
        """
        if self.position.step == self.saved_step and self.best is None:
            return
        started = time.monotonic()
        if self.learner.group.first:
            self._write()
        elif is_sharded(self.learner.model):  # of which the first one writes this rank's part too
            self.predictor()
            save_state(None, self.learner, self.position)
        self.best = None
        self.saved_step, self.saved_at = self.position.step, time.monotonic()
        self.cost = self.saved_at - started

    def _write(self) -> None:
        if self.best is not None:
            with replacing_directory(self.directory / BEST) as fresh:
                self.write(fresh, self.best)
        metrics = self.directory / METRICS
        if metrics.exists():
            with writing(metrics):
                sync(metrics)
        last, previous = self.directory / LAST, self.directory / PREVIOUS
        with replacing_directory(last, keep=previous) as fresh:
            self.write(fresh, self.predictor())
            save_state(fresh, self.learner, self.position)

    def predictor(self) -> Backbone:
        """The weights to predict with, whole and without adapters, on the first rank."""
        learner = self.learner
        model = learner.predictor
        if is_sharded(model):
            from vitkit.training.fsdp import whole

            state = whole(model.state_dict(), keep=learner.group.first)
            if learner.plain is None:
                return model
            model = learner.plain
            model.load_state_dict(state)
        return tune.merge_lora(model)
