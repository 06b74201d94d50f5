"""What the report of a finished run shows, gathered from the run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitkit.errors import DataError
from vitkit.report.contents import Mistake, Report
from vitkit.report.examine import doubt_labels, examine
from vitkit.report.findings import shelves
from vitkit.report.looks import look, positions, with_maps
from vitkit.report.page import MISTAKES_SHOWN, SAMPLES_SHOWN
from vitkit.training.environment import read_environment, settled
from vitkit.training.run import Outcome
from vitkit.training.sampling import Examples
from vitkit.training.shards import ShardSplit

LOOKED_AT = 6  # images whose maps are shown
MAPPED = 12  # mistakes that get one


def gather(outcome: Outcome) -> Report:
    """The contents of a report.

    Raises:
        DataError: the run evaluated nothing.
    """
    if outcome.evaluation is None:
        raise DataError("a run without a test or val split has nothing to report")
    prepared, history = outcome.prepared, outcome.run.metrics
    classifier = outcome.classifier
    assert classifier is not None  # which gave the answers that were evaluated
    worst = mistakes(outcome)
    check = examine(outcome)
    found = (
        []
        if check is None
        else shelves(check, doubt_labels(outcome), lambda row: picture(outcome, row))
    )
    return Report(
        title=Path(prepared.source.name).name or prepared.source.name,
        model=prepared.resolved.settings.architecture,
        parameters=sum(parameter.numel() for parameter in prepared.model.parameters()),
        data=outcome.dataset.account(),
        evaluation=outcome.evaluation,
        split=outcome.split,
        history=history,
        mistakes=with_maps(worst[:MAPPED], classifier) + worst[MAPPED:],
        looks=[look(classifier, *shown) for shown in firsts(outcome)],
        positions=positions(classifier),
        samples=samples(outcome),
        found=found,
        near_leaks=0 if check is None else sum(not copy.exact for copy in check.leaks),
        settings=settled(prepared.resolved),
        environment=read_environment(outcome.run.directory),
        seconds=history[-1]["seconds"] if history else None,
    )


def mistakes(outcome: Outcome) -> list[Mistake]:
    """The most confident wrong answers on the evaluated split, most confident first."""
    if outcome.probabilities is None or outcome.labels is None:
        return []
    classes, labels = outcome.prepared.source.classes, outcome.labels
    answers, shares = outcome.probabilities.argmax(axis=1), outcome.probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    worst = wrong[np.argsort(-shares[wrong], kind="stable")][:MISTAKES_SHOWN].tolist()
    return [
        Mistake(
            name=name,
            image=image,
            truth=classes[labels[i]],
            predicted=classes[answers[i]],
            confidence=float(shares[i]),
        )
        for i, (name, image) in zip(worst, pictures(outcome, worst), strict=True)
    ]


def firsts(outcome: Outcome) -> list[tuple[str, NDArray[np.uint8], str]]:
    """Name, picture and class of the first evaluated image of each of some classes."""
    if outcome.labels is None:
        return []
    found, numbers = np.unique(outcome.labels, return_index=True)
    shown = pictures(outcome, numbers[:LOOKED_AT].tolist())
    classes = outcome.prepared.source.classes
    return [
        (name, image, classes[label])
        for (name, image), label in zip(shown, found.tolist(), strict=False)
    ]


def pictures(outcome: Outcome, numbers: Sequence[int]) -> list[tuple[str, NDArray[np.uint8]]]:
    """Name and picture of images of the evaluated split, by their numbers in it."""
    examples = outcome.dataset.examples[outcome.split]
    if isinstance(examples, ShardSplit):
        fit = outcome.prepared.preprocess.fit
        return [(name, as_rgb(fit(image))) for name, image in examples.pictures(numbers)]
    assert isinstance(examples, Examples)
    rows = examples.rows[list(numbers)].tolist()
    return [(outcome.prepared.source.samples[row].name, picture(outcome, row)) for row in rows]


def samples(outcome: Outcome) -> dict[str, NDArray[np.uint8]]:
    """The first training image of each class."""
    examples, classes = outcome.dataset.examples["train"], outcome.prepared.source.classes
    shown = classes[:SAMPLES_SHOWN]
    if isinstance(examples, ShardSplit):
        fit = outcome.prepared.preprocess.fit
        found_of = examples.first_of_each(len(shown))
        return {classes[label]: as_rgb(fit(found_of[label])) for label in sorted(found_of)}
    assert isinstance(examples, Examples)
    first: dict[str, NDArray[np.uint8]] = {}
    labels = examples.labels[examples.rows]
    for label, name in enumerate(shown):
        found = (labels == label).nonzero()
        if len(found):
            first[name] = picture(outcome, int(examples.rows[int(found[0])]))
    return first


def picture(outcome: Outcome, row: int) -> NDArray[np.uint8]:
    """An image as the model sees it: (h, w, 3) uint8."""
    images = outcome.dataset.images
    if isinstance(images, Tensor):
        fitted = images[row].numpy()
    else:
        fitted = outcome.prepared.preprocess.fit(outcome.prepared.source.read(row))
    return as_rgb(fitted)


def as_rgb(fitted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A model's image, (C, h, w), to be shown: (h, w, 3)."""
    pixels = fitted.transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
