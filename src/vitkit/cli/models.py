"""`vitkit models`."""

import json
from typing import Annotated

import typer

from vitkit.cli.options import Json


def models(
    pattern: Annotated[str, typer.Argument(help="A shell pattern, such as 'swin*'.")] = "*",
    as_json: Json = False,
) -> None:
    """List the models with their size, cost and source."""
    from vitkit.errors import ConfigError
    from vitkit.models import list_models
    from vitkit.models.cost import cost

    names = list_models(pattern)
    if not names:
        raise ConfigError(f"no model is called {pattern!r}; `vitkit models` lists all")
    rows = map(cost, names)  # each line as soon as it is counted
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    width = max(map(len, names))
    typer.echo(f"{'model':<{width}}  {'parameters':>11}  {'GMACs':>7}  {'input':>7}  source")
    for row in rows:
        size = "x".join(map(str, row.image_size))
        typer.echo(
            f"{row.name:<{width}}  {row.parameters:>11,}  {row.macs / 1e9:>7.2f}  {size:>7}"
            f"  {row.source}"
        )
