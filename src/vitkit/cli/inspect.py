"""`vitkit inspect`."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitkit.cli.convert import pixels
from vitkit.cli.options import Json, ModelOfFile
from vitkit.cli.screen import Screen
from vitkit.cli.sheet import Sheet, Subject, show, to_json

if TYPE_CHECKING:
    from vitkit.models.backbone import Config

LISTS = ("--image-size", "--patch-size")
SIZES = re.compile(r"[\dxX,]+")


def inspect(
    subject: Annotated[
        str,
        typer.Argument(metavar="MODEL|CKPT", help="A name of `vitkit models`, or a checkpoint."),
    ],
    image_size: Annotated[
        list[str] | None,
        typer.Option(metavar="PIXELS...", help="224 384 160x224: several stand side by side."),
    ] = None,
    patch_size: Annotated[
        list[str] | None,
        typer.Option(metavar="PIXELS...", help="8 16 32: several stand side by side."),
    ] = None,
    model: ModelOfFile = None,
    as_json: Json = False,
) -> None:
    """Show what a model is made of, by formula, and what it costs."""
    from vitkit.models.cost import footprint
    from vitkit.models.formula import groups

    found = find(subject, model)
    table = variants(found.config, image_size or [], patch_size or [])
    if len(table) == 1 and found.checkpoint is None:  # a size for the model itself
        found, table = replace(found, config=table[0]), []
    cost = footprint(found.config)
    counted = cost.parameters if found.numbers is None else found.numbers
    beside = [(config, footprint(config)) for config in table]
    sheet = Sheet(found, groups(found.config), counted, cost, beside)
    if as_json:
        typer.echo(json.dumps(to_json(sheet), indent=2))
    else:
        show(sheet)
    if sheet.derived != sheet.counted:
        raise typer.Exit(1)


def one_each(arguments: Sequence[str]) -> list[str]:
    """Arguments with its option before each value of a list, as typer wants it."""
    spread: list[str] = []
    option, opened = "", False  # the list that we are in; that it has no value yet
    for argument in arguments:
        if not opened and option and SIZES.fullmatch(argument):
            spread.append(option)
        elif not opened:
            name = argument.partition("=")[0]
            option = name if name in LISTS else ""
        opened = argument == option != ""
        spread.append(argument)
    return spread


def find(subject: str, model: str | None) -> Subject:
    """The model of this name, or the checkpoint at this place.

    Raises:
        ConfigError: there is neither.
        CheckpointError, WeightsError: it cannot be read.
    """
    from vitkit.errors import ConfigError, nearest
    from vitkit.models import CONFIGS, find_config
    from vitkit.weights.hub import is_reference

    path, name = Path(subject), subject.partition(".")[0]
    if name in CONFIGS and not path.is_file():
        if model is not None:
            raise ConfigError(f"{subject} names a model itself; leave --model={model} out")
        return Subject(name, find_config(name))
    if not is_reference(subject) and not path.exists():
        hint = nearest(name, CONFIGS)
        raise ConfigError(
            f"{subject!r} is no checkpoint and no model{hint}; `vitkit models` lists all models"
        )
    return open_checkpoint(subject, model)


def open_checkpoint(subject: str, model: str | None) -> Subject:
    """What a checkpoint holds; its tensors are read once, and no model is built around them."""
    from vitkit.models.cost import stored_parameters
    from vitkit.weights import hub, store

    place = subject if hub.is_reference(subject) else str(store.best_of_run(Path(subject)))
    with Screen() as screen:
        stored = store.load(place, model=model, listen=screen)
    return Subject(
        stored.architecture,
        stored.config,
        place,
        stored_parameters(stored.config, stored.tensors),
        stored.notes,
    )


def variants(
    config: "Config", image_sizes: Sequence[str], patch_sizes: Sequence[str]
) -> list["Config"]:
    """The model with every patch size at every image size; none if no list is given.

    Raises:
        ConfigError: a size that breaks a rule, or patches for a model without any.
    """
    from vitkit.errors import ConfigError

    changes: list[dict[str, Any]] = [{}]
    if patch_sizes:
        if not hasattr(config, "patch_size"):
            raise ConfigError("the model cuts no patches; leave --patch-size out")
        changes = [{"patch_size": whole(text)} for text in split(patch_sizes)]
    if image_sizes:
        sides = [pixels(text) for text in split(image_sizes)]
        changes = [{**change, "image_size": size} for change in changes for size in sides]
    return [replace(config, **change) for change in changes if change]


def split(values: Iterable[str]) -> list[str]:
    """Values of a list that may also be written with commas."""
    return [part for value in values for part in value.split(",") if part]


def whole(text: str) -> int:
    """A patch size.

    Raises:
        ConfigError: it is no whole number.
    """
    from vitkit.errors import ConfigError

    if not text.isdecimal():
        raise ConfigError(f"patch_size={text!r} is no number of pixels; write 16")
    return int(text)
