"""A model that starts from weights: found, adapted to the wanted size, and accounted for."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitkit import models
from vitkit.errors import ConfigError, WeightsError
from vitkit.layers.window import fit_window
from vitkit.models import CONFIGS, check, find_config
from vitkit.models.backbone import Backbone, Config
from vitkit.models.swinv2 import SwinV2Config
from vitkit.progress import Listener, silent
from vitkit.weights import store
from vitkit.weights.adapt import Adapted
from vitkit.weights.layout import NUMERIC
from vitkit.weights.store import Stored


def to_stderr(text: str) -> None:
    """Lines for a person, which are no result."""
    print(text, file=sys.stderr)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: int | Sequence[int] | None = None,
    in_channels: int | None = None,
    init: str | Path | None = None,
    init_size: tuple[int, int] | None = None,
    report: Callable[[str], None] = to_stderr,
    listen: Listener = silent,
    **overrides: Any,
) -> Backbone:
    """A model by name: (B, C, H, W) -> (B, num_classes); with new weights, or with those of `init`.

    `num_classes` defaults to 1000, or to what `init` has; `image_size`, in pixels, one side or
    (height, width), and `in_channels` default to the variant's own. `overrides` replace fields of
    the family's configuration, such as `depth=6`. `init` is any checkpoint: a directory, a weights
    file, `hf-hub:owner/name[@revision]`. Its positions, channels and classifier are adapted where
    they have to be, and `report` gets a table of every tensor that was not kept as it is.
    `init_size` is the size in pixels that `init` was trained for, where it does not say it.

    Raises:
        ConfigError: no such name or field (the nearest is named), or a value that breaks a rule.
        CheckpointError, WeightsError: `init` cannot be read, or does not fit.
    """
    sizes = {"image_size": image_size, "in_channels": in_channels}
    given = {key: value for key, value in sizes.items() if value is not None} | overrides
    if init is None:
        classes = 1000 if num_classes is None else num_classes
        return models.create_model(name, num_classes=classes, **given)
    find_config(name, **given)  # a mistake is told before anything is read
    stored = load_for(name, init, init_size, listen)
    target = wanted(name, stored, num_classes, given)
    model, adapted = stored.build_as(target)
    report(account(str(init), stored, target, adapted))
    return model


def load_for(name: str, init: str | Path, size: tuple[int, int] | None, listen: Listener) -> Stored:
    """A checkpoint that is to become a model of this name, which helps where it does not say."""
    try:
        return store.load(init, image_size=size, listen=listen)
    except WeightsError as error:
        if "not tell" not in str(error):
            raise
        return store.load(init, model=name, image_size=size, listen=listen)


def wanted(name: str, stored: Stored, num_classes: int | None, given: dict[str, Any]) -> Config:
    """The configuration of a name, with what the weights' logits depend on.

    Raises:
        ConfigError: the weights are of another family.
    """
    own = CONFIGS[name.partition(".")[0]]
    if type(own) is not type(stored.config):
        raise ConfigError(f"the weights are of {stored.architecture}, which is no kind of {name}")
    if stored.architecture == name.partition(".")[0]:
        start = replace(stored.config, image_size=own.image_size, in_channels=own.in_channels)
    else:
        numeric = {key: getattr(stored.config, key) for key in NUMERIC if hasattr(own, key)}
        start = replace(own, **numeric)
    count = stored.config.num_classes if num_classes is None else num_classes
    target = replace(start, **check.of_types(type(own), {**given, "num_classes": count}))
    return target if "pretrained_window_sizes" in given else keep_scale(stored.config, target)


def resized(config: Config, sizes: Mapping[str, Any]) -> Config:
    """A configuration with other `image_size`, `in_channels` or `num_classes`.

    Raises:
        ConfigError: a value that breaks a rule.
    """
    return keep_scale(config, replace(config, **check.of_types(type(config), sizes)))


def keep_scale(source: Config, target: Config) -> Config:
    """Offsets of SwinV2 go on being scaled by the windows that they were learned with."""
    if not isinstance(source, SwinV2Config) or not isinstance(target, SwinV2Config):
        return target
    scales = []
    for stage, scale in enumerate(source.pretrained_window_sizes):
        old, _ = fit_window(source.grids[stage], source.window_size)
        new, _ = fit_window(target.grids[stage], target.window_size)
        scales.append(scale or (0 if new == old else old[0]))
    return replace(target, pretrained_window_sizes=tuple(scales))


def account(name: str, stored: Stored, target: Config, adapted: Adapted) -> str:
    """What was read, what was guessed, and what became of every tensor, as lines."""
    own = CONFIGS[stored.architecture]
    numeric = [
        f"{key}={getattr(target, key)}"
        for key in NUMERIC
        if hasattr(own, key) and getattr(target, key) != getattr(own, key)
    ]
    lines = [f"{'weights':<8}  {name}: {stored.architecture} in {stored.source}'s layout"]
    lines += [f"{'guessed':<8}  {note}" for note in stored.notes]
    lines += (
        [f"{'follows':<8}  {', '.join(numeric)}, as the weights were trained"] if numeric else []
    )
    return "\n".join([*lines, str(adapted)])
