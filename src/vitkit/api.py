"""The main jobs in Python: train and evaluate; `vitkit.load` gives a classifier to predict with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.classifier import Classifier
from vitkit.data.sources import Source, open_source
from vitkit.data.split import load_split
from vitkit.errors import ConfigError, DataError
from vitkit.evaluation.metrics import Evaluation, evaluate_predictions
from vitkit.progress import Listener, Progress, silent
from vitkit.report.gather import gather
from vitkit.report.page import write_report
from vitkit.training import run as training
from vitkit.training.config import Resolved, resolve
from vitkit.training.loop import EVALUATION_BATCH
from vitkit.training.run import SPLIT, Run

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
        resolved = training.resumed_settings(Path(out), settings)
    else:
        resolved = resolve(settings, origin="argument")
    directory = Path(out) if out is not None else new_directory(data, resolved)
    return run(data, resolved, directory, resume=resume, listen=listen, stop=stop)


def run(
    data: str | Path,
    resolved: Resolved,
    directory: Path,
    *,
    resume: bool = False,
    listen: Listener = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Train with resolved settings, then write the report."""
    outcome = training.train(
        data, resolved, directory=directory, resume=resume, listen=listen, stop=stop
    )
    if outcome.evaluation is not None:
        write_report(directory / REPORT, gather(outcome))
    return outcome.run


def new_directory(data: str | Path, resolved: Resolved) -> Path:
    """`runs/<data>-<model>`, with a number where that is taken."""
    stem = Path(str(data).partition(":")[0]).stem or "data"
    name = f"{stem}-{resolved.settings.architecture}"
    candidates = [Path("runs", name), *(Path("runs", f"{name}-{n}") for n in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


def evaluate(
    classifier: Classifier, data: str | Path, split: str = "test", *, listen: Listener = silent
) -> Evaluation:
    """Score a classifier on a split of DATA; `all` is every image. Unreadable ones are left out.

    Where DATA has no splits of its own, those count that the classifier's run made for it.

    Raises:
        DataError: no such split, a class that the model does not know, or nothing that can be read.
    """
    source = open_source(data)
    chosen = select(source, split, classifier.origin)
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
    return replace(evaluation, unreadable=tuple(unreadable))


def select(source: Source, split: str, origin: Path | None) -> Source:
    """The part of a source that belongs to a split.

    The source's own splits count first, then those that the run at `origin` saved for these images.
    A source that has neither is taken whole for `test`.
    """
    if split == "all":
        return source
    splits = [sample.split for sample in source.samples]
    if split not in splits:  # perhaps the run cut it out of the source's train
        saved = saved_splits(source, origin)
        splits = saved if any(saved) else splits
    if not any(splits) and split == "test":
        return source
    indices = [i for i, name in enumerate(splits) if name == split]
    if not indices:
        known = ", ".join(sorted({name for name in splits if name})) or "none"
        raise DataError(f"{source.name} has no split {split!r}; it has {known}")
    return source.subset(indices)


def saved_splits(source: Source, origin: Path | None) -> list[str | None]:
    """The splits that the run at `origin`, or around it, made; None where it knows other images."""
    for directory in (origin, origin.parent) if origin else ():
        if (directory / SPLIT).is_file():
            rows = {row.name: row.split for row in load_split(directory / SPLIT)}
            found = [rows.get(sample.name) for sample in source.samples]
            return found if all(found) else [None] * len(found)
    return [None] * len(source.samples)
