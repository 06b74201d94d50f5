"""Running a study: every arm an ordinary training run, the same conditions for all."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit import api
from vitkit.data.sources import open_source
from vitkit.progress import Listener, Progress, silent
from vitkit.study.conditions import Conditions, settings_for
from vitkit.study.design import Arm, Study
from vitkit.study.page import write_pages
from vitkit.study.record import Record, check_new, write_record
from vitkit.study.results import Measured, Result, Results, measure
from vitkit.training.directory import CONFIG, CONTENTS, ENVIRONMENT, SPLIT, Run, resumed_settings
from vitkit.training.plan import plan


@dataclass(frozen=True, slots=True)
class Job:
    """One run that a study needs."""

    arm: Arm
    seed: int
    directory: Path
    settings: dict[str, Any]

    @property
    def run(self) -> Run:
        """Its directory as that of a run."""
        return Run(self.directory)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: scores and report are the last that is written."""
        return self.run.evaluation is not None and (self.directory / api.REPORT).is_file()


def run_study(
    study: Study,
    conditions: Conditions,
    directory: Path,
    *,
    resume: bool = False,
    listen: Listener = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Record:
    """Train all arms, with `resume` those that are not finished, and write record and page.

    Both are written anew after every run, so that a crash loses none that is finished. Once `stop`,
    asked after every step and every run, says yes, the record is returned unfinished.

    Raises:
        ConfigError, DataError, CheckpointError: with one line that says what to change; settings
            that are wrong for any arm before the first is trained.
    """
    if not resume:
        check_new(directory)
    jobs = list(plan_jobs(study, conditions, directory))
    for job in jobs:
        plan(conditions.data, job.settings)
    warm_up(conditions.data)
    directory.mkdir(parents=True, exist_ok=True)
    done: dict[str, list[Measured]] = {}
    record = keep(directory, study, conditions, done)
    for number, job in enumerate(jobs, 1):
        if not job.finished:
            listen(_announcement(job, number, len(jobs), conditions))
            if not train(job, conditions.data, listen, stop).finished:
                return record
        done.setdefault(job.arm.name, []).append(measure(job.run, job.seed))
        record = keep(directory, study, conditions, done)
        if number < len(jobs) and stop():
            return record
    return record


def warm_up(data: str) -> None:
    """Import now what the first arm would else import in its own time: seconds, by the clock."""
    importlib.import_module("torch._dynamo")  # which torch does with the first optimiser
    next(open_source(data).some(1), None)


def plan_jobs(study: Study, conditions: Conditions, directory: Path) -> Iterator[Job]:
    """The runs of a study, seed by seed, so that a study that is cut short compares like with like.

    Each seed has a teacher of its own: another one may have seen this one's held-out images.
    """
    for seed in range(conditions.seeds):
        for arm in study.trained:
            teacher = directory / f"{study.teacher.name}-seed-{seed}" if study.teacher else None
            settings = settings_for(study, arm, conditions, seed=seed, teacher=teacher)
            yield Job(arm, seed, directory / f"{arm.name}-seed-{seed}", settings)


def train(job: Job, data: str, listen: Listener, stop: Callable[[], bool]) -> Run:
    """Do a run, or go on with it.

    Raises:
        ConfigError, DataError, CheckpointError: with one line that says what to change.
    """
    begun = (job.directory / CONFIG).is_file()
    if not begun:  # what a crash left before the run began
        for name in (SPLIT, CONTENTS, ENVIRONMENT):
            (job.directory / name).unlink(missing_ok=True)
    resolved = resumed_settings(job.directory, job.settings) if begun else plan(data, job.settings)
    return api.train_and_report(
        data, resolved, job.directory, resume=begun, listen=listen, stop=stop
    )


def keep(
    directory: Path, study: Study, conditions: Conditions, done: dict[str, list[Measured]]
) -> Record:
    """Write record and page of what is done."""
    results: Results = {name: Result(tuple(runs)) for name, runs in done.items()}
    record = Record(directory, study, conditions, results)
    write_record(record)
    if record.arms:
        write_pages(record)
    return record


def _announcement(job: Job, number: int, total: int, conditions: Conditions) -> Progress:
    seed = f", seed {job.seed}" if conditions.seeds > 1 else ""
    figures = {f"{job.arm.title}{seed}:": conditions.length}
    return Progress(f"run {number}/{total}", number - 1, total, figures, final=True)
