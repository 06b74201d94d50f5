"""`vitkit settings`."""

import json
import shutil
import sys
import textwrap
from fnmatch import fnmatchcase
from typing import Annotated, Any

import typer

from vitkit.cli.options import Json

BROADEST = 32  # characters of a default in its column


def settings(
    pattern: Annotated[str, typer.Argument(help="A shell pattern, such as 'augment.*'.")] = "*",
    as_json: Json = False,
) -> None:
    """List every KEY=VALUE of `vitkit train`, with what it means.

    Fields of the model's configuration are settings as well, model.depth=6, say: `vitkit train DATA
    --dry-run` lists them.
    """
    from vitkit.errors import ConfigError, nearest
    from vitkit.training.meanings import meanings

    rows = {key: row for key, row in meanings().items() if fnmatchcase(key, pattern)}
    if not rows:
        if pattern.startswith("model"):
            raise ConfigError(
                "settings of the model depend on it: `vitkit train DATA --model NAME --dry-run` "
                "lists them"
            )
        hint = nearest(pattern, meanings()) or "; `vitkit settings` lists all"
        raise ConfigError(f"no setting is called {pattern!r}{hint}")
    if as_json:
        listed = [{"key": key, "default": row[0], "meaning": row[1]} for key, row in rows.items()]
        typer.echo(json.dumps(listed, indent=2))
        return
    keys = max(map(len, rows))
    defaults = min(max(len(written(value)) for value, _ in rows.values()), BROADEST)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for key, (value, meaning) in rows.items():
        start = f"{key:<{keys}}  {written(value):<{defaults}}  "
        rest = max(width - keys - defaults - 4, 30)
        lines = textwrap.wrap(meaning, rest, break_on_hyphens=False) or [""]
        typer.echo(f"\n{'':<{keys + defaults + 4}}".join([start + lines[0], *lines[1:]]).rstrip())


def written(value: Any) -> str:
    """A value as it is given: KEY=VALUE."""
    return json.dumps(value, separators=(",", ":")).strip('"')
