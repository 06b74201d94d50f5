"""What survives a crash, and how it reaches the disk whole or not at all.

`last/` holds everything a run needs to go on: the weights to predict with, and in `state.pt` the
weights being trained, their average, the optimiser's and the scaler's state and the `Position`.
Random numbers need no saving: every step draws them from the run's seed and its own number, and
every epoch its order likewise. `previous/` is the `last/` before.
`best/` holds only weights to predict with.

Each is written under another name beside it, with a `manifest.json` of sizes and checksums as its
last file, waited for until the disk has it, and renamed. What has no right manifest is not read.
"""

import contextlib
import hashlib
import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vitkit.errors import CheckpointError
from vitkit.training.parallel import is_sharded
from vitkit.training.position import Position
from vitkit.training.step import Learner
from vitkit.whole_file import sync

STATE, MANIFEST = "state.pt", "manifest.json"
OF_GROUPS = ("params", "lr", "step")  # what a group of parameters has besides its settings
BEST, LAST, PREVIOUS = "best", "last", "previous"
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
def replacing_directory(directory: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """An empty directory to fill, which then takes the place of `directory`.

    What was there is renamed to `keep`, or removed. If filling fails, all stays as it was. A crash
    between renames leaves the new one whole under another name, where `recover` finds it.

    Raises:
        CheckpointError: the disk does not take it.
    """
    new = _new(directory)
    with writing(directory):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            yield new
            for file in new.iterdir():
                sync(file)
            manifest = new / MANIFEST
            manifest.write_text(json.dumps({"files": _checksums(new)}, indent=2) + "\n", "utf-8")
            sync(manifest)
            sync(new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        _take_place(new, directory, keep)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that `path` cannot be written, and what to do.

    Raises:
        CheckpointError: for whatever the disk said.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror or error}; make room or mend the disk, "
            "then go on with --resume"
        ) from None


def _take_place(new: Path, directory: Path, keep: Path | None) -> None:
    """The renames: at each moment a whole directory is there under a name that `recover` knows."""
    old = _beside(keep or directory, "old")
    shutil.rmtree(old, ignore_errors=True)
    if keep is not None and keep.exists():
        keep.rename(old)
    if directory.exists():
        directory.rename(keep or old)
    new.rename(directory)
    sync(directory.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(directory: Path) -> None:
    """Finish a replacement that was cut off between its renames."""
    new, old = _new(directory), _beside(directory, "old")
    if directory.exists():
        return
    for candidate in (new, old):
        if candidate.is_dir() and fault(candidate) is None:
            candidate.rename(directory)
            return


def fault(directory: Path) -> str | None:
    """What is wrong with a directory that `replacing_directory` has written; None if it is whole.

    Every byte is read.
    """
    try:
        written = json.loads((directory / MANIFEST).read_text("utf-8"))["files"]
        found = _checksums(directory)
        names = sorted({*written, *found})
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is not there"
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"{MANIFEST} cannot be read: {reason}"
    for name in names:
        if name not in found:
            return f"{name} is not there"
        if name in written and written[name] != found[name]:
            return f"{name} is not what was written"
    return None


def _checksums(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file but the manifest."""
    sums = {}
    for path in sorted(directory.iterdir()):
        if path.name != MANIFEST:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    return sums


def newest(run: Path) -> tuple[Path | None, str]:
    """The checkpoint to go on from, None where none was written yet; and what must be said of it.

    A damaged `last/` is removed, and `previous/` takes its place.

    Raises:
        CheckpointError: there are some, and all are damaged.
    """
    last, previous = run / LAST, run / PREVIOUS
    faults = {}
    for path in (last, previous):
        if not path.is_dir():
            continue
        wrong = fault(path)
        if wrong is None:
            if path == last:
                return last, ""
            break
        faults[path.name] = wrong
    else:
        if not faults:
            return None, ""
        listed = "; ".join(f"{name}/: {wrong}" for name, wrong in faults.items())
        raise CheckpointError(f"{run} has no checkpoint that is whole ({listed}); start a new run")
    shutil.rmtree(last, ignore_errors=True)
    previous.rename(last)
    what = f"is damaged ({faults[LAST]})" if faults else "is gone"
    return last, f"{LAST}/ {what}: going on from the checkpoint before it"


def save_state(directory: Path | None, learner: Learner, position: Position) -> None:
    """Write the part of a run that only training needs.

    It is the same for one process and for many. Of a sharded model every rank has a part to give;
    those that write nothing have no `directory`.

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
    if is_sharded(learner.model):
        from vitkit.training.fsdp import whole

        state = whole(state, keep=directory is not None)
    if directory is None:
        return
    with writing(directory / STATE), open(directory / STATE, "wb") as file:
        try:
            torch.save(state, file)  # given a path it never says why
        except RuntimeError as error:  # of its zip writer, where the disk is full at the very end
            raise OSError("the disk is full or fails") from error


def load_state(directory: Path, learner: Learner) -> Position:
    """Put a learner back where `save_state` found it, under the settings that it has now.

    An average that the run did not have begins with its weights.

    Raises:
        CheckpointError: the state is absent, damaged, or of another model or optimiser.
    """
    path = directory / STATE
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["average"] is None:
            state["average"] = state["model"]
        if is_sharded(learner.model):
            from vitkit.training.fsdp import in_shards

            state = in_shards(state, learner)
        learner.model.load_state_dict(state["model"])
        load_optimizer(learner.optimizer, state["optimizer"])
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


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimiser its state back, but leave it its weight decay, betas and other settings.

    Raises:
        ValueError: the state is of other groups of parameters.
    """
    settings = [
        {name: value for name, value in group.items() if name not in OF_GROUPS}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def _new(directory: Path) -> Path:
    return _beside(directory, "new")


def _beside(directory: Path, what: str) -> Path:
    return directory.with_name(f".{directory.name}.{what}")
