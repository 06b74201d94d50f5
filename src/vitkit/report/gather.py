"""What the report of a finished run shows, gathered from the run."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitkit.errors import DataError
from vitkit.report.contents import Mistake, Report
from vitkit.report.page import MISTAKES_SHOWN, SAMPLES_SHOWN
from vitkit.training.environment import read_environment, settled
from vitkit.training.run import Outcome


def gather(outcome: Outcome) -> Report:
    """The contents of a report.

    Raises:
        DataError: the run evaluated nothing.
    """
    if outcome.evaluation is None:
        raise DataError("a run without a test or val split has nothing to report")
    prepared, history = outcome.prepared, outcome.run.metrics
    return Report(
        title=Path(prepared.source.name).name or prepared.source.name,
        model=prepared.resolved.settings.architecture,
        parameters=sum(parameter.numel() for parameter in prepared.model.parameters()),
        data=outcome.dataset.summary,
        evaluation=outcome.evaluation,
        split=outcome.split,
        history=history,
        mistakes=mistakes(outcome),
        samples=samples(outcome),
        settings=settled(prepared.resolved),
        environment=read_environment(outcome.run.directory),
        seconds=history[-1]["seconds"] if history else None,
    )


def mistakes(outcome: Outcome) -> list[Mistake]:
    """The most confident wrong answers on the evaluated split, most confident first."""
    if outcome.probabilities is None:
        return []
    source = outcome.prepared.source
    examples = outcome.dataset.examples[outcome.split]
    labels = examples.labels[examples.rows].numpy()
    answers, shares = outcome.probabilities.argmax(axis=1), outcome.probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    worst = wrong[np.argsort(-shares[wrong], kind="stable")][:MISTAKES_SHOWN]
    return [
        Mistake(
            name=source.samples[int(examples.rows[i])].name,
            image=picture(outcome, int(examples.rows[i])),
            truth=source.classes[labels[i]],
            predicted=source.classes[answers[i]],
            confidence=float(shares[i]),
        )
        for i in worst
    ]


def samples(outcome: Outcome) -> dict[str, NDArray[np.uint8]]:
    """The first training image of each class."""
    examples, classes = outcome.dataset.examples["train"], outcome.prepared.source.classes
    first: dict[str, NDArray[np.uint8]] = {}
    labels = examples.labels[examples.rows]
    for label, name in enumerate(classes[:SAMPLES_SHOWN]):
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
    pixels = fitted.transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
