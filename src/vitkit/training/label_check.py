"""Likely wrong labels of a set, from predictions of models that did not learn them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitkit.classifier import Classifier
from vitkit.data.check.copies import groups_of
from vitkit.data.check.run import DataCheck
from vitkit.data.sources import Source
from vitkit.errors import DataError
from vitkit.evaluation.suspects import agreement, find_suspects, knows_enough
from vitkit.progress import Listener, Progress, silent
from vitkit.training.config import parse
from vitkit.training.crossfit import assign_folds, cross_fit
from vitkit.training.leaks import trained_on
from vitkit.training.plan import plan

EPOCHS = (8, 60)  # of each fold's model where no length is given, at least and at most,
VISITS = 400_000  # and images that they show it in all


@dataclass(frozen=True)
class LabelCheck:
    """Samples whose label is likely wrong, the most suspicious first; rows count the samples."""

    rows: NDArray[np.int64]  # (m,)
    suggested: NDArray[np.int64]  # (m,) index into the source's classes
    suspicion: NDArray[np.float64]  # (m,) in [0, 1]: what the model does not give to the label
    scored: int  # images
    left_out: int  # readable images that were not scored, for they were learned from
    agreement: float  # share of the labels, in [0, 1], that are the model's first choice
    how: str  # in words, by what they were scored

    @property
    def trusted(self) -> bool:
        """Whether what scored the images knows enough to doubt a label."""
        return knows_enough(self.agreement)

    def to_json(self, source: Source) -> dict[str, Any]:
        """What `vitkit data check --json` prints below `labels`."""
        columns = (self.rows.tolist(), self.suggested.tolist(), self.suspicion.tolist())
        return {
            "scored": self.scored,
            "left_out": self.left_out,
            "agreement": self.agreement,
            "how": self.how,
            "likely_wrong": [
                {
                    "file": source.samples[row].name,
                    "label": source.classes[source.samples[row].label or 0],
                    "suggested": source.classes[suggested],
                    "suspicion": suspicion,
                }
                for row, suggested, suspicion in zip(*columns, strict=True)
            ],
        }


def check_by_folds(
    source: Source,
    check: DataCheck,
    folds: int,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    listen: Listener = silent,
    stop: Callable[[], bool] = lambda: False,
) -> LabelCheck:
    """Score every image by a model that was trained on the other folds, with the settings given.

    Copies of an image, near ones too, are in its fold. Without `epochs` or `minutes` every image is
    shown 8 to 60 times, the fewer there are the more often. Where `stop` came first, what was not
    scored is left out.

    Raises:
        ConfigError, DataError: as `plan` and `train`, or no image can be read.
    """
    readable = _readable(source, check)
    part = source.subset(readable)
    groups = groups_of(len(source.samples), check.exact, check.near)
    labels = [sample.label or 0 for sample in part.samples]
    resolved = plan(part, {"data.val_fraction": 0.0, **_quick(overrides, len(readable))})
    held = assign_folds(labels, [groups[row] for row in readable], folds, seed=0)
    probabilities = cross_fit(part, held, resolved, listen=listen, stop=stop)
    settings = resolved.settings
    length = f"{settings.minutes:g} minutes" if settings.minutes else f"{settings.epochs} epochs"
    how = f"{folds} models ({settings.architecture}, {length}), each trained on the other folds"
    return _suspect(part, np.array(readable), probabilities, len(readable), how)


def _readable(source: Source, check: DataCheck) -> list[int]:
    rows = [row for row, key in enumerate(check.keys) if key is not None]
    if not rows:
        raise DataError(f"{source.name} has no image that can be read, so no label to doubt")
    return rows


def _quick(overrides: Sequence[str] | Mapping[str, Any], images: int) -> dict[str, Any]:
    """The overrides, with a length if they give none."""
    given = parse(overrides)
    low, high = EPOCHS
    epochs = min(max(VISITS // images, low), high)
    return given if {"epochs", "minutes"} & set(given) else {**given, "epochs": epochs}


def check_by_classifier(
    source: Source, check: DataCheck, classifier: Classifier, *, listen: Listener = silent
) -> LabelCheck:
    """Score the images by a trained model, but for those that it was trained on, if its run tells.

    Raises:
        DataError: a class that the model does not know, or every image is unreadable or was trained
            on.
    """
    unknown = [name for name in source.classes if name not in classifier.classes]
    if unknown:
        known = ", ".join(classifier.classes[:10])
        raise DataError(f"{source.name} has the class {unknown[0]!r}; the model knows only {known}")
    learned = trained_on(classifier.origin)
    readable = _readable(source, check)
    fresh = [row for row in readable if (check.keys[row] or b"").hex() not in (learned or ())]
    if not fresh:
        raise DataError(
            f"{classifier.origin} was trained on every image of {source.name}, and doubts "
            "none that it learned; use --folds 2 instead"
        )
    part = source.subset(fresh)
    columns = [classifier.classes.index(name) for name in source.classes]
    found = np.full((len(fresh), len(columns)), np.nan, np.float32)
    for answer in classifier.stream(part):
        if answer.values is not None:
            found[answer.index] = answer.values[columns]
        listen(Progress("score", answer.index + 1, len(fresh)))
    found /= found.sum(axis=1, keepdims=True)
    how = f"{classifier.origin}, " + (
        "which does not tell what it was trained on: images that it has learned are not doubted"
        if learned is None
        else "on images that it was not trained on"
    )
    return _suspect(part, np.array(fresh), found, len(readable), how)


def _suspect(
    part: Source,
    rows: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    readable: int,
    how: str,
) -> LabelCheck:
    """The suspects among the rows that were scored."""
    scored = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    labels = np.array([sample.label or 0 for sample in part.samples], np.int64)[scored]
    suspects = find_suspects(probabilities[scored], labels)
    likely = suspects.likely
    return LabelCheck(
        rows=rows[scored[likely]],
        suggested=suspects.suggested[likely],
        suspicion=suspects.suspicion[likely],
        scored=len(scored),
        left_out=readable - len(scored),
        agreement=agreement(probabilities[scored], labels),
        how=how,
    )
