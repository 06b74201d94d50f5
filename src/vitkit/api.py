"""The main jobs in Python: train and evaluate; `vitkit.load` gives a classifier to predict with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.classifier import Classifier, load
from vitkit.data.audit import content_key, load_contents
from vitkit.data.loader import default_workers, look_ahead
from vitkit.data.sources import DEFAULT_LIMITS, Limits, Source, open_source
from vitkit.data.split import load_split
from vitkit.errors import ConfigError, DataError, ImageError
from vitkit.evaluation.metrics import Evaluation, evaluate_predictions, in_words
from vitkit.progress import Listener, Progress, silent
from vitkit.report.gather import gather
from vitkit.report.page import write_report
from vitkit.training.config import Resolved
from vitkit.training.directory import CONTENTS, SPLIT, Run, resumed_settings
from vitkit.training.plan import plan
from vitkit.training.run import train as train_resolved
from vitkit.training.sampling import EVALUATION_BATCH

REPORT = "report.html"


def train(
    data: str | Path,
    *,
    model: str | None = None,
    recipe: str | None = None,
    init: str | Path | None = None,
    teacher: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    listen: Listener = silent,
    stop: Callable[[], bool] = lambda: False,
    **overrides: Any,
) -> Run:
    """Train a classifier on DATA and write its run directory with a report.

    `model` is a name from `list_models`, or `auto` or None for one that suits the data, `recipe` a
    name or a file of settings that belong together, `init` a checkpoint to start from and `teacher`
    one to learn from besides; `overrides` are settings by their dotted keys, such as `epochs=10,
    **{"data.image_size": 64}`. `out` defaults to a new directory under `runs/`. With
    `resume` an interrupted run in `out` goes on. `stop` is asked after every step; once it says
    yes, everything is saved and the run returned with `finished` false.

    Raises:
        ConfigError, DataError, CheckpointError: with one line that says what to change.
    """
    named = {"model.name": model, "recipe": recipe, "init": init, "distill.teacher": teacher}
    settings = {key: str(value) for key, value in named.items() if value} | overrides
    if resume and out is None:
        raise ConfigError("resume=True needs out, the directory of the run to go on with")
    if resume and out is not None:
        resolved = resumed_settings(Path(out), settings, origin="argument")
    else:
        resolved = plan(data, settings, origin="argument", listen=listen)
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

    Where DATA has no splits of its own, those count that the classifier's run made for its images,
    known again by name and content; where there is none of these, `test` is all of DATA.
    `Evaluation.split` says what was scored.

    Raises:
        DataError: no such split, a class that the model does not know, or nothing that can be read.
    """
    if isinstance(classifier, str | Path):
        classifier = load(classifier)
    source = open_source(data, limits=limits)
    chosen, what = select(source, split, classifier.origin, listen)
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


def select(
    source: Source, split: str, origin: Path | None, listen: Listener = silent
) -> tuple[Source, str]:
    """The part of a source that belongs to a split, and in words which part that is.

    The source's own splits count first, then those that the run at `origin` saved for its images.
    An image is the run's if it has the name and the content of one; any other is new.
    """
    if split == "all":
        return source, "all images"
    own = [sample.split for sample in source.samples]
    if split in own:
        inside = [index for index, name in enumerate(own) if name == split]
        return source.subset(inside), in_words(split, of_the_data=True)
    saved = of_the_run(source, origin)
    named = {index: content for index, (name, content) in saved.items() if name == split}
    if same := list(unchanged(source, named, listen)):  # perhaps cut out of the source's own train
        new = 0 if any(own) else len(source.samples) - len(saved)
        left_out = {"new": new, "changed": len(named) - len(same)}
        without = " and ".join(f"{count:,} {what}" for what, count in left_out.items() if count)
        words = in_words(split, of_the_data=False)
        return source.subset(same), f"{words}, without {without}" if without else words
    if split == "test" and not any(own):
        others = {index: content for index, (name, content) in saved.items() if name != split}
        if next(unchanged(source, others, listen), None) is None:
            return source, "all images: " + (
                f"{len(saved):,} have names of the run's, but other content"
                if saved
                else "neither the data nor the run has a split for them"
            )
    known = {*own, *(name for name, _ in saved.values())} - {None, split}
    changed = f" ({len(named):,} have the names of its images, but other content)" if named else ""
    raise DataError(
        f"{source.name} has no split {split!r}{changed}; "
        f"it has {', '.join(sorted(filter(None, known))) or 'none'}"
    )


def of_the_run(source: Source, origin: Path | None) -> dict[int, tuple[str, str]]:
    """Split and content of what the run at `origin`, or around it, knew by an image's name."""
    for directory in (origin, origin.parent) if origin else ():
        if (directory / SPLIT).is_file():
            contents = load_contents(directory / CONTENTS)
            rows = {
                row.name: (row.split, contents.get(row.name, ""))
                for row in load_split(directory / SPLIT)
            }
            names = [sample.name for sample in source.samples]
            return {index: rows[name] for index, name in enumerate(names) if name in rows}
    return {}


def unchanged(source: Source, contents: Mapping[int, str], listen: Listener) -> Iterator[int]:
    """Those of the images, by index, that have this content still, or cannot be read to tell."""

    def check(index: int) -> bool:
        try:
            return content_key(source.read(index)).hex() == contents[index]
        except ImageError:
            return True

    workers = default_workers()
    checks = look_ahead(check, contents, workers=workers, ahead=2 * workers)
    for done, (index, same) in enumerate(zip(contents, checks, strict=True), 1):
        listen(Progress("compare", done, len(contents)))
        if same:
            yield index
