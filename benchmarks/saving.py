"""What checkpoints cost: the share of a run's time that goes into writing them.

    python -m benchmarks.saving --out benchmarks/results/saving-cpu.json

Each run is an ordinary one, saved whenever vitkit finds it time; the first has epochs of a second,
after which it would be dear to save every one, the second a larger model with epochs of a minute.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.record import keep, parser

import vitkit
from vitkit.training.saving import Saver

RUNS: dict[str, dict[str, Any]] = {
    "digits, short epochs": {
        "data": "digits",
        "model": "vit_tiny_patch16_224",
        "data.image_size": 32,
        "model.patch_size": 8,
        "model.dim": 128,
        "model.depth": 4,
        "model.num_heads": 4,
        "epochs": 40,
    },
    "digits, 22 million parameters": {
        "data": "digits",
        "model": "vit_small_patch16_224",
        "data.image_size": 32,
        "model.patch_size": 8,
        "epochs": 6,
    },
}


class Watch:
    """Adds up the time of every `Saver.save`, and counts those that wrote."""

    def __init__(self) -> None:
        self.seconds, self.saves = 0.0, 0
        self.real = Saver.save

    def __enter__(self) -> "Watch":
        watch, real = self, self.real

        def save(saver: Saver) -> None:
            before, started = saver.saved_step, time.perf_counter()
            real(saver)
            watch.seconds += time.perf_counter() - started
            watch.saves += saver.saved_step != before

        Saver.save = save  # type: ignore[method-assign]
        return self

    def __exit__(self, *given: object) -> None:
        Saver.save = self.real  # type: ignore[method-assign]


def measure(data: str, **settings: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        run = vitkit.train(data, out=Path(folder) / "run", **settings)
        epochs, seconds = len(run.metrics), run.metrics[-1]["seconds"]
    return {
        "epochs": epochs,
        "seconds": round(seconds, 1),
        "checkpoints": watch.saves,
        "seconds_saving": round(watch.seconds, 2),
        "share": round(watch.seconds / seconds, 4),
    }


def main() -> None:
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    keep({name: measure(**settings) for name, settings in RUNS.items()}, arguments)


if __name__ == "__main__":
    main()
