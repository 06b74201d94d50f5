"""The main jobs in Python: train and evaluate; `vitkit.load` gives a classifier to predict with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitkit.classifier import Classifier, load
from vitkit.data.audit import content_key, load_contents
from vitkit.data.loader import default_workers, look_ahead
from vitkit.data.sources import DEFAULT_LIMITS, Limits, Source, open_source
from vitkit.data.split import load_split
from vitkit.errors import ConfigError, DataError, ImageError
from vitkit.evaluation.compare import Comparison
from vitkit.evaluation.compare import compare as compare_answers
from vitkit.evaluation.intervals import Answers
from vitkit.evaluation.metrics import Evaluation, answers_of, evaluate_predictions, in_words
from vitkit.evaluation.robustness import Ordeal
from vitkit.progress import Listener, Progress, cautious, silent
from vitkit.report.gather import gather
from vitkit.report.page import write_report
from vitkit.training.config import Resolved
from vitkit.training.directory import CONTENTS, SPLIT, Run, resumed_settings, to_resume
from vitkit.training.distributed import Group, joined
from vitkit.training.plan import plan
from vitkit.training.run import train_resolved
from vitkit.training.sampling import EVALUATION_BATCH
from vitkit.training.shard_list import splits_by_shard

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
    allow_changes: bool = False,
    listen: Listener = cautious,
    stop: Callable[[], bool] = lambda: False,
    **overrides: Any,
) -> Run:
    """Train a classifier on DATA and write its run directory with a report.

    `model` is a name from `list_models`, or `auto` or None for one that suits the data, `recipe` a
    name or a file of settings that belong together, `init` a checkpoint to start from and `teacher`
    one to learn from besides; `overrides` are settings by their dotted keys, such as `epochs=10,
    **{"data.image_size": 64}`. `out` defaults to a new directory under `runs/`. With
    `resume` an interrupted run in `out` goes on, with `allow_changes` under other settings or on
    other data. `stop` is asked after every step; once it says yes, everything is saved and the run
    returned with `finished` false. Without `listen`, settings that are known to fail are Python's
    warnings.

    Raises:
        ConfigError, DataError, CheckpointError: with one line that says what to change.
    """
    named = {"model.name": model, "recipe": recipe, "init": init, "distill.teacher": teacher}
    settings = {key: str(value) for key, value in named.items() if value} | overrides
    if resume and out is None:
        raise ConfigError("resume=True needs out, the directory of the run to go on with")
    directory = None if out is None else Path(out)
    with joined() as group:
        if listen is cautious and not group.first:
            listen = silent  # one warning is enough
        resolved, resume = settle(
            data,
            settings,
            directory,
            resume=resume,
            allow_changes=allow_changes,
            group=group,
            origin="argument",
            listen=listen,
        )
        return train_and_report(
            data,
            resolved,
            directory,
            resume=resume,
            allow_changes=allow_changes,
            listen=listen,
            stop=stop,
        )


def settle(
    data: str | Path,
    overrides: Mapping[str, Any],
    directory: Path | None,
    *,
    resume: bool,
    allow_changes: bool,
    group: Group,
    origin: str = "command line",
    listen: Listener = silent,
) -> tuple[Resolved, bool]:
    """The settings of a run, new or going on, and which of the two it is; alike for all ranks.

    Raises:
        ConfigError, DataError, CheckpointError: with one line that says what to change.
    """
    resume = to_resume(directory, resume, group)
    if resume and directory is not None:
        resolved = resumed_settings(
            directory, overrides, allow_changes=allow_changes, origin=origin
        )
    else:
        resolved = plan(data, overrides, origin=origin, listen=listen)
    return group.of_first(resolved), resume


def train_and_report(
    data: str | Path,
    resolved: Resolved,
    directory: Path | None,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    listen: Listener = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Train with resolved settings, in a new directory under `runs/` if None, and report.

    Of many ranks the first has the evaluation, and reports; all return when that is done.
    """
    with joined() as group:
        outcome = train_resolved(
            data,
            resolved,
            directory=directory,
            resume=resume,
            allow_changes=allow_changes,
            listen=listen,
            stop=stop,
        )
        if outcome.evaluation is not None:
            write_report(outcome.run.directory / REPORT, gather(outcome))
        group.wait()
    return outcome.run


def evaluate(
    classifier: Classifier | str | Path,
    data: str | Path,
    split: str = "test",
    *,
    corruptions: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    listen: Listener = silent,
) -> Evaluation:
    """Score a classifier, or the CKPT of one, on a split of DATA; `all` is every image.

    Unreadable images are left out and listed. With `corruptions` every image is scored besides
    under 17 kinds of corruption at 5 severities, which takes 85 times as long.

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
    return scored(classifier, chosen, what, corruptions=corruptions, listen=listen)[0]


def compare(
    first: Classifier | str | Path,
    second: Classifier | str | Path,
    data: str | Path,
    split: str = "test",
    *,
    corruptions: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    listen: Listener = silent,
) -> Comparison:
    """Score two classifiers on the same images of DATA, and test whether they differ.

    The images are those of the split for both, as `evaluate` has it: where runs split DATA each in
    its own way, what one held out may be what the other learned from, and is left out.

    Raises:
        DataError: as `evaluate`, or no image is in the split of both.
        ConfigError: the classifiers have different classes.
    """
    pair = [load(c) if isinstance(c, str | Path) else c for c in (first, second)]
    if set(pair[0].classes) != set(pair[1].classes):
        odd = sorted(set(pair[0].classes) ^ set(pair[1].classes))[0]
        raise ConfigError(
            f"the models have different classes: {odd!r} is known to one of them only; "
            "compare models that were trained on the same classes"
        )
    source = open_source(data, limits=limits)
    chosen, what = select_for_both(source, split, [c.origin for c in pair], listen)
    results = [
        scored(classifier, chosen, what, corruptions=corruptions, listen=listen)
        for classifier in pair
    ]
    (one, answers), (other, others) = results
    return compare_answers(one, other, answers, others)


def scored(
    classifier: Classifier,
    chosen: Source,
    what: str,
    *,
    corruptions: bool = False,
    listen: Listener = silent,
) -> tuple[Evaluation, Answers]:
    """The scores of a classifier on the images of a source, which are `what`, and its answers.

    Raises:
        DataError: a class that the model does not know, or nothing that can be read.
    """
    labels = labels_of(chosen, classifier.classes)

    def probabilities(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return classifier.engine.probabilities(torch.from_numpy(batch)).numpy()

    ordeal = None
    if corruptions:
        total, workers = len(labels), default_workers()
        ordeal = Ordeal(probabilities, total=total, workers=workers, listen=listen)
    rows, truths, unreadable = [], [], []
    for chunk in classifier.inputs(chosen, batch_size=EVALUATION_BATCH):
        readable = {each.index: each.pixels for each in chunk if each.pixels is not None}
        unreadable += [
            (chosen.samples[each.index].name, each.error) for each in chunk if each.pixels is None
        ]
        if readable:
            images = np.stack(list(readable.values()))
            truth = labels[list(readable)]
            rows.append(probabilities(images))
            truths.append(truth)
            if ordeal is not None:
                ordeal.add(images, list(readable), truth)
        for each in chunk:
            listen(Progress("evaluate", each.index + 1, len(labels)))
    if not rows:
        raise DataError(
            f"{chosen.name}: not one image can be read of what was to be scored: {what}"
        )
    p, y = np.concatenate(rows), np.concatenate(truths)
    evaluation = replace(
        evaluate_predictions(p, y, classifier.classes, temperature=classifier.temperature),
        robustness=None if ordeal is None else ordeal.result(),
        split=what,
        unreadable=tuple(unreadable),
    )
    return evaluation, answers_of(p, y, classifier.classes)


def labels_of(source: Source, classes: Sequence[str]) -> NDArray[np.int64]:
    """The number that a model's `classes` give to the class of each sample, (n,).

    Raises:
        DataError: a class that is not among them.
    """
    unknown = [name for name in source.classes if name not in classes]
    if unknown:
        known = ", ".join(classes[:10])
        raise DataError(f"{source.name} has the class {unknown[0]!r}; the model knows only {known}")
    numbers = [classes.index(name) for name in source.classes]
    return np.array([numbers[sample.label or 0] for sample in source.samples], np.int64)


def select_for_both(
    source: Source, split: str, origins: Sequence[Path | None], listen: Listener = silent
) -> tuple[Source, str]:
    """What belongs to a split for the runs at all `origins` that know the source, as `select`.

    Raises:
        DataError: no such split, or it has no image in common.
    """
    known = [
        origin
        for origin in origins
        if of_the_run(source, origin) or any(splits_by_shard(source.samples, origin))
    ] or [None]
    parts = [select(source, split, origin, listen) for origin in known]
    names = [{sample.name for sample in part.samples} for part, _ in parts]
    common = set.intersection(*names)
    if not common:
        raise DataError(
            f"{source.name}: no image is in the split {split!r} of both runs; split the data "
            "yourself, or train both with the same seed"
        )
    if all(part == common for part in names):
        return parts[0]
    inside = [index for index, sample in enumerate(source.samples) if sample.name in common]
    return source.subset(inside), f"{split}, what both runs hold out of it"


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
    by_shard = splits_by_shard(source.samples, origin)
    if inside := [index for index, name in enumerate(by_shard) if name == split]:
        return source.subset(inside), in_words(split, of_the_data=False)
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
