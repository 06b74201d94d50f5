"""The `vitkit` command: what is common to all of its subcommands."""

import sys
from typing import Annotated

import typer

import vitkit
from vitkit.cli import demo, doctor, evaluate, models, predict, train
from vitkit.errors import VitkitError

app = typer.Typer(
    help="From a folder of images to a vision transformer that is trained, understood and used.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # drawn boxes cost a third of the time that `--help` takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(models.models)
app.command()(train.train)
app.command("eval")(evaluate.evaluate)
app.command()(predict.predict)
app.command()(doctor.doctor)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vitkit {vitkit.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Run a command; an error of the caller's is one line and exit code 2.

    Typer itself turns an interrupt into exit code 130, and a closed pipe into a quiet end.
    """
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, prog_name="vitkit")
    except VitkitError as error:
        if debug:
            raise
        line = " ".join(str(error).split())
        print(f"vitkit: {line}", file=sys.stderr)
        sys.exit(2)
