"""How many wrong labels confident learning finds, and how many it suspects in vain.

    python -m benchmarks.labels --threads 1 --out benchmarks/results/labels-cifar10.json

A share of CIFAR-10's training labels is changed to another class, drawn at random. Every image is
then scored by a model that was trained on the other half, with the changed labels and all, and the
images are put in the order of suspicion. Precision is the share of changed labels among the first,
as many as were changed. CIFAR-10's own mistakes, about one in 200, count as wrong suspicions.
"""

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from benchmarks.record import keep, parser
from numpy.typing import NDArray

from vitkit.data.sources import Source, open_source
from vitkit.evaluation.suspects import Suspects, find_suspects
from vitkit.progress import Progress
from vitkit.training.crossfit import assign_folds, cross_fit
from vitkit.training.plan import plan

CIFAR = "../shared/data/cifar10-jpeg.zip"
MODEL, RECIPE = "vitc_compact_32", "small"


def say(progress: Progress) -> None:
    if progress.final:
        figures = "  ".join(f"{name} {value}" for name, value in progress.figures.items())
        print(f"{progress.phase:<20} {figures}", flush=True)


def of_train(source: Source) -> Source:
    """The training images alone, without their split."""
    rows = [i for i, sample in enumerate(source.samples) if sample.split in (None, "train")]
    part = source.subset(rows)
    return replace(part, samples=tuple(replace(sample, split=None) for sample in part.samples))


def plant(source: Source, share: float, seed: int) -> tuple[Source, NDArray[np.bool_]]:
    """The source with a share of its labels changed, and which."""
    random = np.random.default_rng(seed)
    count, classes = len(source.samples), len(source.classes)
    changed = np.zeros(count, bool)
    changed[random.choice(count, round(share * count), replace=False)] = True
    shift = np.where(changed, random.integers(1, classes, count), 0)
    samples = tuple(
        replace(sample, label=(int(sample.label or 0) + int(step)) % classes)
        for sample, step in zip(source.samples, shift, strict=True)
    )
    return replace(source, samples=samples), changed


def score(suspects: Suspects, changed: NDArray[np.bool_]) -> dict[str, Any]:
    """Precision among the first, and what the list of likely ones holds."""
    first = suspects.order[: int(changed.sum())]
    likely = changed[suspects.likely]
    return {
        "precision_first": round(float(changed[first].mean()), 4),
        "first": len(first),
        "precision_first_tenth_of_them": round(float(changed[first[: len(first) // 10]].mean()), 4),
        "listed": len(likely),
        "precision_listed": round(float(likely.mean()), 4),
        "recall_listed": round(float(likely.sum() / changed.sum()), 4),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", default=CIFAR)
    options.add_argument("--share", type=float, default=0.05, help="of labels that are changed")
    options.add_argument("--folds", type=int, default=2)
    options.add_argument("--epochs", type=int, default=8, help="of each fold's model")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    load, started = os.getloadavg()[0], time.perf_counter()
    source, changed = plant(of_train(open_source(arguments.data)), arguments.share, arguments.seed)
    labels = [int(sample.label or 0) for sample in source.samples]
    folds = assign_folds(labels, range(len(labels)), arguments.folds, seed=arguments.seed)
    settings = {
        "model.name": MODEL,
        "recipe": RECIPE,
        "data.val_fraction": 0.0,
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "threads": arguments.threads,
    }
    probabilities = cross_fit(source, folds, plan(source, settings), listen=say)
    assert np.isfinite(probabilities).all()
    given = np.array(labels)
    result = {
        **score(find_suspects(probabilities, given), changed),
        "changed": int(changed.sum()),
        "images": len(labels),
        "top1_held_out_of_given_labels": round(float((probabilities.argmax(1) == given).mean()), 4),
        "folds": arguments.folds,
        "settings": settings,
        "seconds": round(time.perf_counter() - started, 1),
        "load_before": round(load, 2),
    }
    keep(result, arguments)


if __name__ == "__main__":
    main()
