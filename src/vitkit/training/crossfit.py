"""Held-out predictions for every image: each from a model that was trained on the others."""

import tempfile
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitkit.data.sources import Source
from vitkit.errors import ConfigError
from vitkit.progress import Listener, Progress, silent
from vitkit.training.config import Resolved
from vitkit.training.run import train_resolved

Folds = NDArray[np.int64]


def assign_folds(
    labels: Sequence[int], groups: Sequence[Hashable], folds: int, *, seed: int = 0
) -> Folds:
    """The fold in which each image is held out: (n,) in [0, folds), every class spread evenly.

    Images of one group stay together, so that no copy tells the answer. What would leave a class
    without an image to train on is never held out: -1.

    Raises:
        ConfigError: fewer than 2 folds.
    """
    if folds < 2:
        raise ConfigError(f"folds={folds} leaves nothing to train on; try 2")
    units: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        units.setdefault(group, []).append(index)
    members = list(units.values())
    assigned = np.full(len(labels), -1, np.int64)
    turns = [0] * (max(labels, default=0) + 1)
    for number in np.random.default_rng(seed).permutation(len(members)):
        label = labels[members[number][0]]
        assigned[members[number]] = turns[label] % folds
        turns[label] += 1
    counts = np.zeros((len(turns), folds), np.int64)
    np.add.at(counts, (np.asarray(labels), assigned), 1)
    alone = counts.max(axis=1) == counts.sum(axis=1)  # all images of the class held out together
    for unit in members:
        if any(alone[labels[index]] for index in unit):
            assigned[unit] = -1
    return assigned


def cross_fit(
    source: Source,
    folds: Folds,
    resolved: Resolved,
    *,
    listen: Listener = silent,
    stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32]:
    """Probabilities of every sample, (n, K), from a model that was trained without its fold.

    Rows are NaN where an image is unreadable, never held out, or `stop` came first. The runs leave
    nothing behind. Their validation images, if the settings keep some, are cut from the others.

    Raises:
        ConfigError, DataError: as `train`.
    """
    found = np.full((len(source.samples), len(source.classes)), np.nan, np.float32)
    count = int(folds.max(initial=-1)) + 1
    for fold in range(count):
        samples = tuple(
            replace(sample, split="test" if held == fold else "train")
            for sample, held in zip(source.samples, folds, strict=True)
        )

        def told(progress: Progress, fold: int = fold) -> None:
            listen(replace(progress, phase=f"fold {fold + 1}/{count} {progress.phase}"))

        with tempfile.TemporaryDirectory(prefix="vitkit-fold-") as scratch:
            outcome = train_resolved(
                replace(source, samples=samples),
                resolved,
                directory=Path(scratch) / "run",
                listen=told,
                stop=stop,
            )
        if not outcome.run.finished:
            break
        dataset = outcome.dataset
        dataset.close()
        pairs = enumerate(zip(dataset.splits, dataset.keys, strict=True))
        rows = [index for index, (split, key) in pairs if split == "test" and key is not None]
        if outcome.probabilities is not None:
            found[rows] = outcome.probabilities
    return found
