"""A run's directory: who may use it, what lies in it, and reading it back."""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from vitkit import whole_file
from vitkit.classifier import Classifier, load
from vitkit.data.shards.hub import SCHEME, is_reference
from vitkit.data.shards.remote import is_url, shown
from vitkit.errors import CheckpointError, ConfigError
from vitkit.evaluation.metrics import Evaluation
from vitkit.training.checkpoint import BEST, LAST, PREVIOUS, recover
from vitkit.training.config import (
    AUTO,
    NO_RECIPE,
    Resolved,
    Setting,
    architecture_of,
    parse,
    resolve,
)
from vitkit.training.distributed import Group, restarts
from vitkit.training.position import Row

CONFIG, ENVIRONMENT, METRICS = "config.yaml", "env.json", "metrics.jsonl"
SPLIT, CONTENTS, UNREADABLE = "split.csv", "contents.csv", "unreadable.csv"
SHARDS = "shards.json"  # which shard is in which split
EVALUATION = "evaluation.json"
FREE = (  # the result stays what it is
    "device",
    "threads",
    "data.workers",
    "data.memory_gb",
    "checkpoint.every",
    "parallel",
    "log",
)
FIXED = (  # what was made of them is in the weights already, or the optimiser's state is of them
    "model.",
    "recipe",
    "init",
    "tune",
    "lora.",
    "optimizer",
    "layer_decay",
)


@dataclass(frozen=True, slots=True)
class Run:
    """A run's directory and what its epochs reached."""

    directory: Path
    finished: bool = True  # False: interrupted, and can be resumed

    @property
    def metrics(self) -> list[Row]:
        """One row for each epoch, as in `metrics.jsonl`."""
        path = self.directory / METRICS
        return [json.loads(line) for line in whole_lines(path)]

    @property
    def evaluation(self) -> Evaluation | None:
        """The scores on the held-out split, once the run is finished."""
        path = self.directory / EVALUATION
        if not path.is_file():
            return None
        return Evaluation.from_json(json.loads(path.read_text("utf-8")))

    def load(self, *, device: str = "auto") -> Classifier:
        """The best weights, ready for use."""
        return load(self.directory, device=device)


def title(data: str) -> str:
    """What a run on DATA is called after: `in/flowers.zip` is `flowers`, `x-{00..99}.tar` `x`."""
    if is_url(data) or is_reference(data):
        data = shown(data).removeprefix(SCHEME).rpartition("/")[2]
    name = data.partition(":")[0]
    if name.endswith(".tar"):
        name = re.split(r"[{*?\[]", name)[0].rstrip("-_.")
    return Path(name).stem


def new_directory(data: str | Path, resolved: Resolved) -> Path:
    """Make `runs/<data>-<model>`, with a number where that is taken.

    Raises:
        CheckpointError: it cannot be made.
    """
    stem = _in_utf8(title(str(data))) or "data"
    name = f"{stem}-{resolved.settings.architecture}"
    for number in count(1):
        directory = Path("runs", name if number == 1 else f"{name}-{number}")
        try:
            directory.mkdir(parents=True)
            return directory
        except FileExistsError:
            if left_behind(directory):
                return directory
        except OSError as error:
            raise CheckpointError(
                f"{directory} cannot be made ({error.strerror}); choose another place with out"
            ) from None
    raise AssertionError("the numbers have no end")


def _in_utf8(text: str) -> str:
    """The text with `_` for every byte of a file's name that is no UTF-8."""
    return "".join("_" if "\ud800" <= letter <= "\udfff" else letter for letter in text)


def left_behind(directory: Path) -> bool:
    """Whether nothing is there but the list of images that stopped a run before it began."""
    return directory.is_dir() and [path.name for path in directory.iterdir()] == [UNREADABLE]


def not_begun(directory: Path) -> bool:
    """Whether nothing is there but what a run that died before its first step has written."""
    names = "|".join(map(re.escape, (SPLIT, CONTENTS, SHARDS, UNREADABLE, ENVIRONMENT)))
    hidden = rf"\.(?:{names}|{re.escape(CONFIG)})\.[0-9a-f]{{16}}"  # of `whole_file`
    known = re.compile(f"{names}|{hidden}")
    return directory.is_dir() and all(known.fullmatch(one.name) for one in directory.iterdir())


def to_resume(directory: Path | None, resume: bool, group: Group) -> bool:
    """Whether to go on with a run: it is asked for, or torchrun has started the ranks again.

    Raises:
        ConfigError: there would be no directory to find it in.
    """
    again, allowed = restarts()
    if directory is None and allowed:
        raise ConfigError(
            "torchrun --max-restarts needs --out, the directory of the run to go on with"
        )
    begun = again > 0 and directory is not None and (directory / CONFIG).is_file()
    return resume or group.of_first(begun)


@contextlib.contextmanager
def claimed(directory: Path, resume: bool) -> Iterator[None]:
    """Make a run's directory, or open it with `resume`, and keep other processes out of it.

    A directory in which nothing was begun is removed again.

    Raises:
        CheckpointError: it cannot be made, another process uses it, something else is there, or
            there is nothing to resume.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise CheckpointError(
            f"{directory} cannot be made ({error.strerror}); choose another --out"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CheckpointError(
            f"another process trains in {directory}; wait for it, or choose another --out"
        ) from None
    try:
        check_directory(directory, resume)
        for name in (LAST, PREVIOUS, BEST):
            recover(directory / name)
        yield
    finally:
        with contextlib.suppress(OSError):
            directory.rmdir()  # only if it is empty
        os.close(descriptor)  # the lock ends with it


def check_directory(directory: Path, resume: bool) -> None:
    """Check that a run may use a directory: a new one, or with `resume` one that holds a run.

    Raises:
        CheckpointError: its name is no UTF-8, something else is there, or nothing to resume.
    """
    if _in_utf8(str(directory)) != str(directory):
        raise CheckpointError(
            f"{directory} is no UTF-8, which weights files need; choose another --out"
        )
    if resume and not (directory / CONFIG).is_file():
        raise CheckpointError(f"{directory} holds no run; leave --resume out to start one")
    if not resume and directory.exists() and not not_begun(directory):
        is_run = (directory / CONFIG).is_file()
        hint = ", or go on with --resume" if is_run else "; it holds no run"
        raise CheckpointError(f"{directory} exists already; choose another --out{hint}")


def resumed_settings(
    directory: Path,
    overrides: Sequence[str] | Mapping[str, Any],
    *,
    allow_changes: bool = False,
    origin: str = "command line",
) -> Resolved:
    """The settings that a run was started with, and overrides of those in `FREE`.

    The overrides that it was started with, whatever was chosen for them, change nothing. With
    `allow_changes` all but those in `FIXED` may change, and `reasons` tell what does.

    Raises:
        CheckpointError: they are absent or damaged.
        ConfigError: the overrides would change others.
    """
    try:
        saved: Any = yaml.safe_load((directory / CONFIG).read_text("utf-8"))
    except FileNotFoundError:
        remedy = "leave --resume out to start one"
        raise CheckpointError(f"{directory} holds no run; {remedy}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{directory} holds no run to resume: {reason}") from None
    if not isinstance(saved, dict):
        raise CheckpointError(f"{directory / CONFIG} holds no settings; start a new run")
    before = resolve(saved=saved)
    old = {row.key: row for row in before.rows()}
    given = parse(overrides)
    name = given.get("model.name")
    if name == AUTO:
        del given["model.name"]
    elif name is not None and architecture_of(name) != before.settings.architecture:
        raise _differs(f"model.name={name}", old["model.name"])  # its fields may be others
    if given.get("data.loading") == "auto":  # which the run has settled
        del given["data.loading"]
    recipe = given.pop("recipe", None)
    if recipe not in (None, before.settings.recipe or NO_RECIPE):
        raise _differs(f"recipe={recipe}", old["recipe"])  # and so would its values
    now = resolve(given, saved=saved, origin=origin)
    changed = [row for row in now.rows() if row.value != old[row.key].value and row.key not in FREE]
    for row in changed:
        if not allow_changes or row.key.startswith(FIXED):
            raise _differs(row, old[row.key])
    reasons = tuple(f"{row} from here on, where the run had {old[row.key]}" for row in changed)
    return replace(now, reasons=reasons)


def _differs(now: Setting | str, before: Setting) -> ConfigError:
    key = now.key if isinstance(now, Setting) else now
    allow = "" if key.startswith(FIXED) else " take it with --allow-changes,"
    return ConfigError(
        f"{now} differs from the run, which has {before}; "
        f"leave it out to resume,{allow} or start a new run"
    )


def keep_metrics(path: Path, step: int) -> None:
    """Drop the rows of epochs that a resumed run will train again, and one that was cut off.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.is_file():
        return
    try:
        kept = [line for line in whole_lines(path) if json.loads(line)["step"] <= step]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); take out the lines that are no JSON, then go on"
        ) from None
    whole_file.write(path, "".join(kept))


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that were written to their end."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
    return [line for line in lines if line.endswith("\n")]
