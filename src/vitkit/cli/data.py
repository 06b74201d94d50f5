"""`vitkit data`: what is done with images before anything is trained on them."""

from collections.abc import Callable

import typer

from vitkit.cli.check import check
from vitkit.cli.pack import pack

COMMANDS: dict[str, Callable[..., None]] = {"check": check, "pack": pack}

app = typer.Typer(
    help="Look after data: `vitkit data check`, `vitkit data pack`.", rich_markup_mode=None
)
for name, command in COMMANDS.items():
    app.command(name)(command)


@app.callback()
def common() -> None:
    """Prepare images: see the commands below."""
