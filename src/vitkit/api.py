"""The main jobs in Python: train and evaluate; `vitkit.load` gives a classifier to predict with."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.classifier import Classifier, load
from vitkit.data.sources import DEFAULT_LIMITS, Limits, Source, open_source
from vitkit.data.split import load_split
from vitkit.errors import ConfigError, DataError
from vitkit.evaluation.metrics import Evaluation, evaluate_predictions, in_words
from vitkit.progress import Listener, Progress, silent
from vitkit.report.gather import gather
from vitkit.report.page import write_report
from vitkit.training.config import Resolved, resolve
from vitkit.training.directory import SPLIT, Run, resumed_settings
from vitkit.training.loop import EVALUATION_BATCH
from vitkit.training.run import train as train_resolved

REPORT = "report.html"


def train(
    data: str | Path,
    *,
    model: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    listen: Listener = silent,
    stop: Callable[[], bool] = lambda: False,
    **overrides: Any,
) -> Run:
    """Train a classifier on DATA and write its run directory with a report.

    `model` is a name from `list_models`; `overrides` are settings by their dotted keys, such as
    `epochs=10, **{"data.image_size": 64}`. `out` defaults to a new directory under `runs/`. With
    `resume` an interrupted run in `out` goes on. `stop` is asked after every step; once it says
    yes, everything is saved and the run returned with `finished` false.

    Raises:
        ConfigError, DataError, CheckpointError: with one line that says what to change.
    """
    settings: dict[str, Any] = {**({"model.name": model} if model else {}), **overrides}
    if resume and out is None:
        raise ConfigError("resume=True needs out, the directory of the run to go on with")
    if resume and out is not None:
        resolved = resumed_settings(Path(out), settings)
    else:
        resolved = resolve(settings, origin="argument")
    directory = None if out is None else Path(out)
    return train_and_report(data, resolved, directory, resume=resume, listen=listen, stop=stop)


def train_and_report(
    data: str | Path,
    resolved: Resolved,
    directory: Path | None,
    *,
    resume: bool = False,
    listen: Listener = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Train with resolved settings, in a new directory under `runs/` if None, and report."""
    outcome = train_resolved(
        data, resolved, directory=directory, resume=resume, listen=listen, stop=stop
    )
    if outcome.evaluation is not None:
        write_report(outcome.run.directory / REPORT, gather(outcome))
    return outcome.run


def evaluate(
    classifier: Classifier | str | Path,
    data: str | Path,
    split: str = "test",
    *,
    limits: Limits = DEFAULT_LIMITS,
    listen: Listener = silent,
) -> Evaluation:
    """Score a classifier, or the CKPT of one, on a split of DATA; `all` is every image.

    Unreadable images are left out and listed.

    Where DATA has no splits of its own, those count that the classifier's run made for it; where
    neither has any, `test` is all of DATA. `Evaluation.split` says what was scored.

    Raises:
        DataError: no such split, a class that the model does not know, or nothing that can be read.
    """
    if isinstance(classifier, str | Path):
        classifier = load(classifier)
    source = open_source(data, limits=limits)
    chosen, what = select(source, split, classifier.origin)
    unknown = [name for name in source.classes if name not in classifier.classes]
    if unknown:
        known = ", ".join(classifier.classes[:10])
        raise DataError(f"{data} has the class {unknown[0]!r}; the model knows only {known}")
    labels = [classifier.classes.index(source.classes[s.label or 0]) for s in chosen.samples]
    rows, truths, unreadable = [], [], []
    for answer in classifier.stream(chosen, batch_size=EVALUATION_BATCH):
        if answer.values is None:
            unreadable.append((chosen.samples[answer.index].name, answer.error))
        else:
            rows.append(answer.values)
            truths.append(labels[answer.index])
        listen(Progress("evaluate", answer.index + 1, len(labels)))
    if not rows:
        raise DataError(f"{data}: not one image of the split {split!r} can be read")
    evaluation = evaluate_predictions(np.stack(rows), np.array(truths), classifier.classes)
    return replace(evaluation, split=what, unreadable=tuple(unreadable))


def select(source: Source, split: str, origin: Path | None) -> tuple[Source, str]:
    """The part of a source that belongs to a split, and in words which part that is.

    The source's own splits count first, then those that the run at `origin` saved for its images.
    """
    if split == "all":
        return source, "all images"
    own = [sample.split for sample in source.samples]
    if split in own:
        return part(source, own, split), in_words(split, of_the_data=True)
    saved = saved_splits(source, origin)
    if split in saved:  # perhaps cut out of the source's own train
        new = sum(name is None for name in saved)
        words = in_words(split, of_the_data=False)
        if new and not any(own):
            words += f", without {new:,} new"
        return part(source, saved, split), words
    if split == "test" and not any(own) and not any(saved):
        return source, "all images: neither the data nor the run has a split for them"
    known = ", ".join(sorted({name for name in [*own, *saved] if name})) or "none"
    raise DataError(f"{source.name} has no split {split!r}; it has {known}")


def part(source: Source, splits: Sequence[str | None], split: str) -> Source:
    """The samples of one split."""
    return source.subset([i for i, name in enumerate(splits) if name == split])


def saved_splits(source: Source, origin: Path | None) -> list[str | None]:
    """The split that the run at `origin`, or around it, gave each image, or None."""
    for directory in (origin, origin.parent) if origin else ():
        if (directory / SPLIT).is_file():
            rows = {row.name: row.split for row in load_split(directory / SPLIT)}
            return [rows.get(sample.name) for sample in source.samples]
    return [None] * len(source.samples)
