"""A run from data to a finished directory: read, split, build, train, evaluate."""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitkit import whole_file
from vitkit.classifier import Classifier, load
from vitkit.data.sources import Source
from vitkit.errors import DataError
from vitkit.evaluation.metrics import Evaluation, evaluate_predictions, in_words
from vitkit.progress import Listener, Progress, caution, note, silent
from vitkit.training import directory as files
from vitkit.training.calibrate import calibrate
from vitkit.training.checkpoint import BEST, LAST, fault, load_state, newest
from vitkit.training.config import Resolved
from vitkit.training.dataset import Dataset, read_dataset, save_unreadable, write_dataset
from vitkit.training.directory import Run, claimed, keep_metrics, new_directory
from vitkit.training.distributed import joined
from vitkit.training.environment import describe_environment, note_resumption, write_environment
from vitkit.training.leaks import leaks
from vitkit.training.logs import sending
from vitkit.training.loop import Diverged, fit
from vitkit.training.parallel import is_sharded
from vitkit.training.position import Position
from vitkit.training.prepare import Prepared, make_learner, own_state, prepare
from vitkit.training.sampling import steps_per_epoch
from vitkit.training.saving import Saver
from vitkit.training.scoring import scores
from vitkit.training.step import Learner
from vitkit.weights import store

EVALUATE = "evaluate"  # the last phase of a run


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run with what its report shows."""

    run: Run
    prepared: Prepared
    dataset: Dataset
    split: str = ""  # the one that was evaluated, "" where none was
    evaluation: Evaluation | None = None
    probabilities: NDArray[np.float32] | None = None  # (n, K), of that split's images
    labels: NDArray[np.int64] | None = None  # (n,), of the same
    classifier: Classifier | None = None  # the weights that were evaluated


def train_resolved(
    data: str | Path | Source,
    resolved: Resolved,
    *,
    directory: Path | None = None,
    resume: bool = False,
    allow_changes: bool = False,
    listen: Listener = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train in a new directory, or go on in it with `resume`; `stop` is asked after every step.

    Without a `directory` one is made under `runs/`. With `allow_changes` a resumed run takes other
    data than it was started with. Started by torchrun, all ranks train together; the first one
    writes.

    Raises:
        ConfigError, DataError, CheckpointError: with one line that says what to change.
    """
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(joined())
        prepared = prepare(data, resolved, resume=resume, listen=listen, group=group)
        if directory is None:
            made = new_directory(prepared.source.name, resolved) if group.first else Path()
            directory = group.of_first(made)
        stack.enter_context(own_state(prepared.resolved.settings))
        if group.first:
            stack.enter_context(claimed(directory, resume))
        group.wait()
        dataset = read_dataset(
            prepared.source,
            prepared.preprocess,
            prepared.resolved.settings,
            directory=directory,
            resume=resume,
            allow_changes=allow_changes,
            listen=listen,
            group=group,
            device=prepared.device,
            room=prepared.room,
        )
        stack.callback(dataset.close)
        group.wait()  # until all have read what is now written
        if group.first and (not resume or allow_changes):
            write_dataset(directory, prepared.source, dataset)
        if group.first:
            note_begin(directory, prepared, resume)
        for text in prepared.notes:
            listen(note(text))
        found = prepared.doubts(len(dataset.examples["train"]))
        found += leaks(prepared.resolved.settings, dataset.keys, dataset.splits)
        for text in found:
            listen(caution(text))
        position = Position(before=group.of_first(time.perf_counter() - started))
        finished = train_prepared(prepared, dataset, directory, position, resume, listen, stop)
        run = Run(directory, finished)
        if not finished:
            return Outcome(run, prepared, dataset)
        return evaluate_run(run, prepared, dataset, listen)


def note_begin(directory: Path, prepared: Prepared, resume: bool) -> None:
    """Keep in a run's directory under which settings it works from now on, and where."""
    settings = prepared.resolved.settings
    environment = describe_environment(prepared.device, settings, prepared.group)
    write = note_resumption if resume else write_environment
    write(directory, {"data": prepared.source.name, **environment})
    whole_file.write(directory / files.CONFIG, prepared.resolved.to_yaml())  # the mark of a run


def train_prepared(
    prepared: Prepared,
    dataset: Dataset,
    directory: Path,
    position: Position,
    resume: bool,
    listen: Listener,
    stop: Callable[[], bool],
) -> bool:
    """Train from `position`, or from where the run stands; False if stopped. What is done is saved.

    Raises:
        CheckpointError: no checkpoint of the run is whole, or the disk does not take a new one.
        Diverged: training goes nowhere.
    """
    settings = prepared.resolved.settings
    splits = dataset.examples
    learner = make_learner(prepared)
    done = go_on(directory, learner, listen) if resume else None
    position = done or position
    if learner.group.first:
        keep_metrics(directory / files.METRICS, position.step)
    saver = Saver(
        directory,
        learner,
        position,
        write=partial(
            store.save,
            architecture=settings.architecture,
            classes=prepared.source.classes,
            preprocess=prepared.preprocess.to_timm(),
        ),
        every=settings.checkpoint.often,
        saved_step=-1 if done is None else done.step,
    )
    config = {row.key: row.value for row in prepared.resolved.rows()}
    logs = settings.log if learner.group.first else ()
    try:
        with sending(logs, directory, config, position.step, listen) as saver.tell:
            finished = fit(
                learner,
                splits["train"],
                splits["val"],
                saver,
                held_out=len(splits["test"]),
                listen=listen,
                stop=stop,
            )
    except Diverged as error:
        position.bad_in_a_row = 0  # who goes on with other settings begins to count again
        saver.save()
        raise Diverged(
            f"{error}; the last good weights are in {directory / LAST}, and --resume with "
            "--allow-changes goes on from them"
        ) from None
    except DataError:  # images that can no longer be read, or who read them is gone
        ended = position.step % steps_per_epoch(len(splits["train"]), settings) == 0
        unscored = position.seen and ended  # going on from there, the epoch would have no scores
        if not unscored and not is_sharded(learner.model):  # others would have to bring their parts
            saver.save()
        raise
    saver.save()
    return finished


def go_on(directory: Path, learner: Learner, listen: Listener) -> Position | None:
    """Put a learner where its run stands, by the newest whole checkpoint; None: there is none.

    What is damaged is said. The first rank looks, and all read what it finds.

    Raises:
        CheckpointError: all are damaged, or of another model.
    """
    group = learner.group
    checkpoint, said = group.of_first(newest(directory) if group.first else (None, ""))
    if said:
        listen(note(said))
    if checkpoint is None:
        return None
    position = load_state(checkpoint, learner)
    scored = group.first and position.best_top1 >= 0
    wrong = group.of_first(fault(directory / BEST) if scored else None)
    if wrong is not None:
        listen(note(f"{BEST}/ is damaged ({wrong}): the best epoch from here on takes its place"))
        position.best_top1 = -1.0
    return position


def evaluate_run(run: Run, prepared: Prepared, dataset: Dataset, listen: Listener) -> Outcome:
    """Score the best weights on the test split, or on val where there is no test split.

    Progress of the phase `EVALUATE` tells that training is over, before anything is scored. The
    scores are the first rank's to make, of all ranks' answers.
    """
    group, source = prepared.group, prepared.source
    group.wait()  # until the first one has written the weights
    split = next((name for name in ("test", "val") if len(dataset.examples[name])), "")
    if not split:
        return Outcome(run, prepared, dataset)
    examples = dataset.examples[split]
    listen(Progress(EVALUATE, 0, len(examples)))
    classifier = load(run.directory, device=str(prepared.device))
    calibrate(run.directory, classifier, dataset.examples["val"], group)
    engine = classifier.engine

    def told(images: int) -> None:
        listen(Progress(EVALUATE, images, len(examples)))

    answers = scores(engine.probabilities, examples, group, told=told)
    probabilities, labels = (tensor.numpy() for tensor in answers)
    outcome = Outcome(run, prepared, dataset, split, None, probabilities, labels, classifier)
    dataset.share_lost(group)
    if not group.first:
        return outcome
    evaluation = evaluate_predictions(
        probabilities, labels, source.classes, temperature=engine.temperature
    )
    words = in_words(split, of_the_data=split in source.splits)
    evaluation = replace(evaluation, split=words, unreadable=dataset.unreadable(source, split))
    text = json.dumps(evaluation.to_json(), indent=2)
    whole_file.write(run.directory / files.EVALUATION, text + "\n")
    save_unreadable(run.directory, dataset.account().unreadable)
    return replace(outcome, evaluation=evaluation)
