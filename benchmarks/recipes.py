"""What recipes reach in a given time: whole runs of `vitkit train`, each from several seeds.

    python -m benchmarks.recipes cifar10 --out benchmarks/results/recipe-cifar10.json
    python -m benchmarks.recipes flowers --out benchmarks/results/recipe-flowers.json
    python -m benchmarks.recipes distillation --out benchmarks/results/recipe-distillation.json

Each is what a user would type: nothing is given but the data and the time. The accuracy is that of
the test images (for flowers a fifth that the run holds out), once, after training. `distillation`
trains a ResNet as teacher first, and then the same ViT with and without it, for the same time.
Nothing else should keep the machine busy meanwhile: the time is the clock's.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.record import keep, parser

import vitkit
from vitkit.progress import Progress

CIFAR, FLOWERS = "../shared/data/cifar10-jpeg.zip", "../shared/data/flowers.zip"
STUDENT = {  # 16 patches: in ten minutes it sees the images often enough to learn them by heart
    "model": "vit_tiny_patch16_224",
    "recipe": "small",
    "data.image_size": 32,
    "model.patch_size": 8,
    "model.dim": 128,
    "model.depth": 4,
    "model.num_heads": 4,
}
TEACHER = {  # 64 pixels: its stem makes one cell of four; a block a stage: it runs in every step
    "model": "resnet18",
    "recipe": "small",
    "model.dim": 32,
    "model.depths": [1, 1, 1, 1],
    "data.image_size": 64,
    "label_smoothing": 0.0,  # which would hide how alike classes are (arXiv:1906.02629)
    "epochs": 24,
}
TAUGHT = {"distill.kind": "soft", "distill.alpha": 1.0, "distill.temperature": 2.0}


def say(progress: Progress) -> None:
    if progress.final:
        figures = "  ".join(f"{name} {value}" for name, value in progress.figures.items())
        print(f"{progress.phase:<12} {figures}", flush=True)


def measure(data: str, directory: Path, **settings: Any) -> dict[str, Any]:
    """One run: what it reached, and how long the whole of it took; a finished one stays."""
    run, started = vitkit.Run(directory), time.perf_counter()
    if run.evaluation is None:
        run = vitkit.train(data, out=directory, listen=say, **settings)
    assert run.evaluation is not None
    last = run.metrics[-1]
    seconds = max(time.perf_counter() - started, last["seconds"])
    return {
        "top1": round(run.evaluation.top1, 4),
        "images": run.evaluation.images,
        "seconds": round(seconds, 1),
        "epochs": last["epoch"],
        "images_per_second": round(last["images_per_second"]),
        "model": json.loads((directory / "best" / "config.json").read_text())["vitkit"],
    }


def seeds(data: str, folder: Path, count: int, **settings: Any) -> dict[str, Any]:
    """The same run from several seeds."""
    runs = [measure(data, folder / f"seed{n}", seed=n, **settings) for n in range(count)]
    mean = statistics.fmean(run["top1"] for run in runs)
    return {"settings": settings, "top1_mean": round(mean, 4), "runs": runs}


def cifar10(data: str | None, folder: Path, minutes: float | None, count: int) -> dict[str, Any]:
    """The default recipe from scratch, ten minutes."""
    return seeds(data or CIFAR, folder, count, minutes=minutes or 10.0)


def flowers(data: str | None, folder: Path, minutes: float | None, count: int) -> dict[str, Any]:
    """The same on a user's folder, five minutes."""
    return seeds(data or FLOWERS, folder, count, minutes=minutes or 5.0)


def distillation(
    data: str | None, folder: Path, minutes: float | None, count: int
) -> dict[str, Any]:
    """A plain ViT, without a teacher and with one, whose probabilities it learns."""
    data, time_given = data or CIFAR, minutes or 10.0
    teacher = measure(data, folder / "teacher", **TEACHER)
    alone = seeds(data, folder / "alone", count, minutes=time_given, **STUDENT)
    taught = seeds(
        data,
        folder / "taught",
        count,
        minutes=time_given,
        teacher=str(folder / "teacher"),
        **STUDENT,
        **TAUGHT,
    )
    gain = taught["top1_mean"] - alone["top1_mean"]
    return {"teacher": teacher, "alone": alone, "taught": taught, "gain": round(gain, 4)}


CLAIMS: dict[str, Callable[[str | None, Path, float | None, int], dict[str, Any]]] = {
    "cifar10": cifar10,
    "flowers": flowers,
    "distillation": distillation,
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("claim", choices=CLAIMS)
    options.add_argument("--data")
    options.add_argument("--minutes", type=float, help="of each run, instead of the claim's own")
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--keep", type=Path, help="leave the runs there, and take finished ones")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        claim = CLAIMS[arguments.claim]
        result = claim(arguments.data, folder, arguments.minutes, arguments.seeds)
    result |= {
        "claim": arguments.claim,
        "load_before": round(load, 2),
    }
    keep(result, arguments)


if __name__ == "__main__":
    main()
