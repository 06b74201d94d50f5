"""`vitkit convert`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitkit.cli.options import Json, ModelOfFile
from vitkit.cli.screen import Screen, visible

if TYPE_CHECKING:
    from vitkit.weights.adapt import Adapted
    from vitkit.weights.store import Stored


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A run, a checkpoint, a weights file or hf-hub:owner/name."
        ),
    ],
    destination: Annotated[
        Path,
        typer.Argument(
            metavar="DST", help="A new directory, or a .safetensors or .pth file of tensors alone."
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", help="vitkit, timm, huggingface or torchvision.")
    ] = "vitkit",
    layout: Annotated[
        str | None,
        typer.Option("--format", help="Whose layout SRC has, instead of what its names say."),
    ] = None,
    model: ModelOfFile = None,
    image_size: Annotated[
        str | None, typer.Option(help="Pixels, 384 or 160x224: positions are resized.")
    ] = None,
    source_size: Annotated[
        str | None, typer.Option(help="Pixels SRC was trained for, where it does not say them.")
    ] = None,
    in_channels: Annotated[
        int | None, typer.Option(min=1, help="Channels: the first convolution is adapted.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=0, help="Classes: a new head, or none for 0.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write weights in another library's layout."""
    from vitkit.weights import convert as conversion
    from vitkit.weights import store
    from vitkit.weights.pretrained import account, resized

    given = {"in_channels": in_channels, "num_classes": num_classes}
    sizes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if image_size is not None:
        sizes["image_size"] = pixels(image_size)
    trained = None if source_size is None else pixels(source_size)
    conversion.check_destination(destination, to)
    with Screen() as screen:
        stored = store.load(source, model=model, source=layout, image_size=trained, listen=screen)
    target = resized(stored.config, sizes)
    network, adapted = stored.build_as(target)
    conversion.convert(stored, network, destination, to)
    if as_json:
        typer.echo(json.dumps(as_data(stored, adapted, to, destination), indent=2))
        return
    typer.echo(visible_lines(account(source, stored, target, adapted)))
    if lost := conversion.lost_numerics(target, to):
        typer.echo(f"{'changed':<8}  {lost}")
    if lost := conversion.lost_temperature(stored, target, to):
        typer.echo(f"{'changed':<8}  {lost}")
    typer.echo(f"{'written':<8}  {visible(str(destination))}, as {to} has it")


def as_data(stored: "Stored", adapted: "Adapted", to: str, destination: Path) -> dict[str, Any]:
    """What was read, guessed, changed and written."""
    return {
        "source": stored.source,
        "architecture": stored.architecture,
        "guessed": stored.notes,
        "to": to,
        "destination": str(destination),
        "tensors": [change.to_json() for change in adapted.changes],
    }


def visible_lines(text: str) -> str:
    """Lines with control characters escaped: names of tensors are a stranger's."""
    return "\n".join(map(visible, text.splitlines()))


def pixels(text: str) -> tuple[int, int]:
    """`384` or `160x224` as height and width."""
    from vitkit.errors import ConfigError

    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ConfigError(f"image_size={text!r} is no size; write 384 or 160x224")
    return int(sides[0]), int(sides[-1])
