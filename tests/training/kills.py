"""Runs that are killed while they work, resumed, and compared with one that was not.

    python tests/training/kills.py DIRECTORY TRIALS [SEED]

Every trial is a process of its own, forked from this one. Half of them die at a chosen call that
changes the disk: before it, after it, or when half of its bytes are written; the others at a moment
that the clock decides. What is left must load, and the run, resumed, and perhaps killed again, must
end with the bits of the run that nobody killed. Each trial that does not prints a line; the last
line is a count.
"""

import builtins
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import vitkit
from vitkit.training.checkpoint import BEST, LAST, STATE, fault
from vitkit.training.config import resolve
from vitkit.training.directory import CONFIG, METRICS
from vitkit.training.run import train_resolved
from vitkit.weights import store

CLASSES, IMAGES = ("blue", "green", "red"), 26  # of each class
SETTINGS = {
    "model.name": "vit_tiny_patch16_224",
    "model.patch_size": 8,
    "model.dim": 32,
    "model.depth": 1,
    "model.num_heads": 1,
    "model.drop_path": 0.1,
    "data.image_size": 16,
    "optimizer": "muon",
    "epochs": 3,
    "batch_size": 16,
    "accumulate": 2,
    "ema": 0.9,
    "augment.shift": 0.2,
    "augment.scale": [0.5, 1.0],
    "augment.policy": "randaugment",
    "augment.jitter": 0.3,
    "augment.erase": 0.5,
    "augment.repeats": 2,
    "augment.until": 0.8,
    "mix.mixup": 0.8,
    "mix.cutmix": 1.0,
    "mix.mode": "pair",
    "mix.until": 0.9,
    "checkpoint.every": "3 steps",
    "device": "cpu",
    "threads": 1,
}
TIMES = ("seconds", "images_per_second")  # of a row, which no two runs share


def draw_images(folder: Path) -> None:
    """Noise of three colours."""
    noise = np.random.default_rng(0)
    for channel, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(IMAGES):
            pixels = noise.integers(0, 160, (16, 16, 3), dtype=np.uint8)
            pixels[..., channel] += 60
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def work(directory: Path, *, resume: bool) -> None:
    train_resolved(
        directory.parent / "images", resolve(SETTINGS), directory=directory, resume=resume
    )


def reached(directory: Path) -> dict[str, Any]:
    """All that a run comes to: its tensors to the bit, its position and its rows."""
    state = torch.load(directory / LAST / STATE, weights_only=True)
    digest = hashlib.sha256()
    for name in ("model", "average", "optimizer"):
        for tensor in tensors_of(state[name]):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    rows = [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]
    best = (directory / BEST / store.WEIGHTS).read_bytes()
    return {
        "state": digest.hexdigest(),
        "best": hashlib.sha256(best).hexdigest(),
        "step": state["position"]["step"],
        "top1": state["position"]["best_top1"],
        "rows": [{key: row[key] for key in row if key not in TIMES} for row in rows],
    }


def tensors_of(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree.reshape(-1)]
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [tensor for child in children for tensor in tensors_of(child)]


class Calls:
    """Counts calls that change the disk, and dies at one of them."""

    def __init__(self, deadly: int, when: str) -> None:
        self.count, self.deadly, self.when = 0, deadly, when
        for owner, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "mkdir")):
            self.watch(owner, name, None)
        self.watch(torch, "save", lambda state, file: Path(file.name))
        self.watch(store, "save_file", lambda tensors, path, **_: Path(path))
        self.watch(Path, "write_text", lambda path, *_, **__: path)
        self.real_open = builtins.open
        builtins.open = self.open  # type: ignore[assignment]

    def watch(self, owner: Any, name: str, target: Callable[..., Path] | None) -> None:
        real = getattr(owner, name)

        def watched(*given: Any, **named: Any) -> Any:
            self.count += 1
            due = self.count == self.deadly
            if due and self.when == "before":
                die()
            result = real(*given, **named)
            if due and self.when == "half" and target is not None:
                halve(target(*given, **named))
            if due:
                die()
            return result

        setattr(owner, name, watched)

    def open(self, path: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
        """Files that are added to: half of what is written arrives."""
        file = self.real_open(path, mode, *given, **named)
        if mode == "a":
            self.count += 1
            if self.count == self.deadly:
                write = file.write

                def half(text: str) -> None:
                    write(text[: len(text) // 2])
                    file.flush()
                    die()

                file = _Writes(file, half)
        return file


class _Writes:
    """A file whose `write` is another."""

    def __init__(self, file: Any, write: Callable[[str], None]) -> None:
        self.file, self.write = file, write

    def __enter__(self) -> "_Writes":
        return self

    def __exit__(self, *given: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def forked(action: Callable[[], Any], *, seconds: float | None = None) -> int:
    """Do something in a process of its own, killed after some seconds; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def attempt(directory: Path, draw: random.Random, calls: int, seconds: float) -> int:
    """One process that works until it ends or dies."""
    resume = (directory / CONFIG).is_file()
    if draw.random() < 0.5:
        return forked(
            lambda: work(directory, resume=resume), seconds=draw.uniform(0.0, 1.1 * seconds)
        )
    deadly, when = draw.randint(1, calls), draw.choice(("before", "half", "after"))

    def deadly_work() -> None:
        Calls(deadly, when)
        work(directory, resume=resume)

    return forked(deadly_work)


def wrong(directory: Path, expected: dict[str, Any], draw: random.Random, **length: Any) -> str:
    """What one trial shows; empty if all is well."""
    status, kills = -1, draw.choice((1, 1, 2, 3))
    for _ in range(kills):
        status = attempt(directory, draw, **length)
        if status not in (0, -signal.SIGKILL):
            return f"ended with {status} rather than being killed"
        if (directory / LAST).is_dir() and (said := fault(directory / LAST)):
            return f"last/ after a kill: {said}"
        if (directory / BEST).is_dir() and forked(lambda: vitkit.load(directory)) != 0:
            return "best/ does not load after a kill"
        if status == 0:
            break
    while status != 0:
        resume = (directory / CONFIG).is_file()
        status = forked(lambda: work(directory, resume=resume))  # noqa: B023
        if status != 0:
            return f"does not resume: {status}"
    found = reached(directory)
    different = [key for key in expected if expected[key] != found[key]]
    return f"differs in {', '.join(different)}" if different else ""


def count_calls(directory: Path) -> None:
    calls = Calls(-1, "")
    work(directory, resume=False)
    (directory.parent / "calls").write_text(str(calls.count))


def main(folder: Path, trials: int, seed: int) -> int:
    torch.set_num_threads(1)
    draw_images(folder / "images")
    started = time.monotonic()
    if forked(lambda: work(folder / "whole", resume=False)) != 0:
        return 2
    seconds = time.monotonic() - started
    forked(lambda: count_calls(folder / "counted"))
    calls = int((folder / "calls").read_text())
    expected = reached(folder / "whole")
    if expected != reached(folder / "counted"):
        print("two runs that nobody killed differ")
        return 2
    failures = 0
    for trial in range(trials):
        draw = random.Random(f"{seed} {trial}")
        directory = folder / str(trial)
        if said := wrong(directory, expected, draw, calls=calls, seconds=seconds):
            failures += 1
            print(f"trial {trial} of seed {seed}: {said}", flush=True)
        else:
            shutil.rmtree(directory)
    print(f"{trials - failures} of {trials} runs ended as if they had never been killed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3] if sys.argv[3:] else 0)))
