"""What survives a crash, and how it reaches the disk whole or not at all.

`last/` holds everything a run needs to go on: the weights to predict with, and in `state.pt` the
weights being trained, their average, the optimiser's and the scaler's state and the `Position`.
Random numbers need no saving: every step draws them from the run's seed and its own number, and
every epoch its order likewise.
`best/` holds only weights to predict with.
"""

import contextlib
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vitkit.errors import CheckpointError
from vitkit.training.position import Position
from vitkit.training.step import Learner
from vitkit.whole_file import sync

STATE = "state.pt"
DAMAGE = (  # what reading a state that is not whole, or of something else, can raise
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextlib.contextmanager
def replacing_directory(directory: Path) -> Iterator[Path]:
    """An empty directory to fill, which then takes the place of `directory` as one step.

    If filling it fails, the old directory stays as it was. A crash between the two renames leaves
    the old one under another name, where `recover` finds it.
    """
    new, old = _beside(directory, "new"), _beside(directory, "old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        for file in new.iterdir():
            sync(file)
        sync(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    new.rename(directory)
    sync(directory.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(directory: Path) -> None:
    """Undo a replacement that was cut off between its two renames."""
    old = _beside(directory, "old")
    if not directory.exists() and old.exists():
        old.rename(directory)


def save_state(directory: Path, learner: Learner, position: Position) -> None:
    """Write the part of a run that only training needs.

    Raises:
        CheckpointError: the disk does not take it.
    """
    average = learner.average
    state = {
        "model": learner.model.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "average": average.model.state_dict() if average is not None else None,
        "position": asdict(position),
    }
    try:
        torch.save(state, directory / STATE)
    except (OSError, RuntimeError) as error:  # its zip writer calls a full disk a RuntimeError
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{directory} cannot be written, make room: {reason}") from None


def load_state(directory: Path, learner: Learner) -> Position:
    """Put a learner back where `save_state` found it.

    Raises:
        CheckpointError: the state is absent, damaged, or of another model or optimiser.
    """
    path = directory / STATE
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        learner.model.load_state_dict(state["model"])
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.scaler.load_state_dict(state["scaler"])
        if learner.average is not None:
            learner.average.model.load_state_dict(state["average"])
        return Position(**state["position"])
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; there is no run to resume") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} cannot be resumed from: it is damaged, or no state of a run; start a new one"
        ) from None
    except DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be resumed from: {reason}") from None


def _beside(directory: Path, what: str) -> Path:
    return directory.with_name(f".{directory.name}.{what}")
