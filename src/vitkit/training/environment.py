"""The machine and the versions that a run works with, and what its settings come to there."""

import datetime
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitkit import __version__, whole_file
from vitkit.data.loader import default_workers
from vitkit.errors import CheckpointError
from vitkit.runtime.device import choose_device, choose_precision
from vitkit.training.config import Resolved, Setting
from vitkit.training.directory import ENVIRONMENT
from vitkit.training.distributed import SOLO, Group
from vitkit.training.settings import TrainSettings

RESUMED = "resumed"  # under this key, what was different when the run went on


def settled(resolved: Resolved) -> list[Setting]:
    """Every setting, with what `auto` and null come to on this machine in their places.

    Raises:
        ConfigError: a device that is not there.
    """
    settings = resolved.settings
    device = choose_device(settings.device)
    here = {
        "device": str(device),
        "precision": choose_precision(device, settings.precision),
        "threads": torch.get_num_threads(),
        "data.workers": default_workers(),
    }
    return [
        Setting(row.key, here[row.key], "this machine")
        if row.key in here and row.value in ("auto", None)
        else row
        for row in resolved.rows()
    ]


def describe_environment(
    device: torch.device, settings: TrainSettings, group: Group = SOLO
) -> dict[str, str]:
    """Versions, hardware and how it computes, as a report names them."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "vitkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.platform(),
        "device": f"{device} ({name})" if name else str(device),
        "precision": choose_precision(device, settings.precision),
        "threads": str(torch.get_num_threads()),
        "ranks": str(group.ranks),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def write_environment(directory: Path, environment: Mapping[str, Any]) -> None:
    """Keep what a run starts with in its directory."""
    whole_file.write(directory / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")


def note_resumption(directory: Path, environment: Mapping[str, str]) -> None:
    """Add what is different since the run was last at work, if anything is.

    Raises:
        CheckpointError: what it was started with is absent or damaged.
    """
    written = _read(directory)
    last: dict[str, Any] = dict(written)
    for entry in written.get(RESUMED, []):
        last |= entry
    last["started"] = now = environment["started"]
    changed = {key: value for key, value in environment.items() if value != last.get(key)}
    if changed:
        written[RESUMED] = [*written.get(RESUMED, []), {"started": now, **changed}]
        write_environment(directory, written)


def read_environment(directory: Path) -> dict[str, str]:
    """What a run was started with, and in one line what was different when it went on.

    Raises:
        CheckpointError: it is absent or damaged.
    """
    written = _read(directory)
    resumed = written.pop(RESUMED, [])
    if resumed:
        lines = [", ".join(f"{key} {value}" for key, value in entry.items()) for entry in resumed]
        written[RESUMED] = "; ".join(lines)
    return written


def _read(directory: Path) -> dict[str, Any]:
    try:
        written: Any = json.loads((directory / ENVIRONMENT).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory / ENVIRONMENT} cannot be read: {error}") from None
    if not isinstance(written, dict):
        raise CheckpointError(f"{directory / ENVIRONMENT} holds no environment; start a new run")
    return written
