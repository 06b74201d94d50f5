"""Trainings one after the other, on every rank that torchrun starts, or on one without it.

    torchrun tests/training/ranks.py JOBS

JOBS is a JSON list of `{"data", "out", "settings", "copy", "stop"}`: which images, the run's
directory, of which run it is a copy to go on with, and after how many steps it is stopped. Beside
the directory every rank leaves `OUT.RANK.pt`: what the images of each step were, and the answers.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from vitkit.training import loop
from vitkit.training.config import resolve
from vitkit.training.directory import resumed_settings
from vitkit.training.distributed import Group, joined
from vitkit.training.run import train_resolved

take_step = loop.train_step


def digests(images: torch.Tensor) -> list[str]:
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in images]


def work(job: dict[str, Any], group: Group) -> None:
    out, settings, seen = Path(job["out"]), job["settings"], []
    copied, last = job.get("copy"), job.get("stop")
    if copied is not None and group.first:
        shutil.copytree(copied, out)
    group.wait()

    def step(learner: Any, images: torch.Tensor, *given: Any, **named: Any) -> Any:
        seen.append(digests(images))
        return take_step(learner, images, *given, **named)

    loop.train_step = step
    outcome = train_resolved(
        job["data"],
        resumed_settings(out, settings) if copied else resolve(settings),
        directory=out,
        resume=copied is not None,
        stop=lambda: last is not None and len(seen) >= last,
    )
    answers = outcome.probabilities
    left = {"seen": seen, "answers": None if answers is None else torch.from_numpy(answers)}
    torch.save(left, out.with_name(f"{out.name}.{group.rank}.pt"))
    group.wait()


def main(jobs: list[dict[str, Any]]) -> None:
    with joined() as group:
        for job in jobs:
            work(job, group)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
