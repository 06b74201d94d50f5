"""The `vitkit` command: what is common to all of its subcommands."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

import vitkit
from vitkit.cli import (
    convert,
    data,
    demo,
    doctor,
    evaluate,
    explain,
    inspect,
    models,
    predict,
    serve,
    settings,
    study,
    train,
)
from vitkit.cli.screen import warn
from vitkit.errors import ConfigError, VitkitError, nearest

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "models": models.models,
    "inspect": inspect.inspect,
    "train": train.train,
    "settings": settings.settings,
    "study": study.study,
    "eval": evaluate.evaluate,
    "predict": predict.predict,
    "explain": explain.explain,
    "serve": serve.serve,
    "convert": convert.convert,
    "doctor": doctor.doctor,
}
GROUPS = {"data": data.app}  # commands that have commands of their own
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's: pages of 2 MiB for tensors on a CPU (docs/log.md)
DEBUG = "With --debug, an error shows its traceback."

# What the system refuses for reasons that lie outside vitkit, and what to do about it.
REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "choose a place that takes larger files",
    errno.EACCES: "ask for the permission, or choose another place",
    errno.EPERM: "ask for the permission, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EIO: "check the disk or the network behind it",
    errno.ESTALE: "check the disk or the network behind it",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "choose a path that leads through directories",
    errno.EISDIR: "name a file",
    errno.ELOOP: "choose a path without such links",
    errno.EMFILE: "raise the limit with `ulimit -n`",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
}

# The error of wrong usage: typer has it from click or, in later versions, from a part of its own,
# and shows only this child of it.
UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="From a folder of images to a vision transformer that is trained, understood and used.",
    epilog=DEBUG,
    add_completion=False,
    rich_markup_mode=None,  # drawn boxes cost a third of the time that `--help` takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in COMMANDS.items():
    app.command(name, epilog=DEBUG)(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name, epilog=DEBUG)


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
    os.environ.setdefault(LARGE_PAGES, "1")  # before torch takes its first memory
    arguments, debug = without_debug(sys.argv[1:])
    try:
        code = run(arguments or ["--help"])
    except (VitkitError, OSError) as error:
        line = str(error) if isinstance(error, VitkitError) else circumstance(error)
        if debug or line is None:
            raise
        warn(" ".join(f"{whose()}{line}".split()))
        code = 2
    if whose():  # one of many ranks: threads of gloo may abort while the interpreter ends
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def whose() -> str:
    """Which of the processes that torchrun has started speaks."""
    ranks = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    return f"rank {os.environ['RANK']}: " if ranks > 1 else ""


def without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without `--debug`, which may stand anywhere before `--`; and was it there?"""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"]
    return kept + list(arguments[end:]), len(kept) < end


def run(arguments: Sequence[str]) -> int:
    """Run a command; its exit code.

    Raises:
        ConfigError: it is called wrongly.
    """
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    known = (*COMMANDS, *GROUPS)
    if called is not None and called not in known:
        raise ConfigError(f"no command {called!r}{nearest(called, known)}; see vitkit --help")
    if called == "inspect":
        arguments = inspect.one_each(arguments)
    try:
        return app(arguments, prog_name="vitkit", standalone_mode=False) or 0
    except UsageError as error:
        fault = error.format_message().rstrip(".")
        if hasattr(error, "possibilities"):  # every version of click words this differently
            known = error.possibilities or ()
            instead = as_setting(called, error.option_name) or nearest(error.option_name, known)
            fault = f"no option {error.option_name!r}{instead}"
        path = f"vitkit {called}" if called else "vitkit"
        if error.ctx is not None:  # a command of a group
            path = error.ctx.command_path
        raise ConfigError(f"{fault}; see {path} --help") from None


def as_setting(command: str | None, option: str) -> str:
    """The end of a message: how what other tools call so is written here, if `train` has it."""
    if command != "train":
        return ""
    if option.lstrip("-") in ("pretrained", "weights", "checkpoint"):
        return ", but weights to start from: write --init hf-hub:owner/name, or a file"
    from vitkit.training.config import ELSEWHERE, known_keys

    name = option.lstrip("-").replace("-", "_")
    keys = [key for key in known_keys() if key.rpartition(".")[2] == name]
    keys = keys or [ELSEWHERE[name]] * (name in ELSEWHERE)
    return f", but a setting: write {keys[0]}=VALUE" if len(keys) == 1 else ""


def circumstance(error: OSError) -> str | None:
    """What the system refused and what to do about it; None if that was rather our mistake."""
    if error.errno not in REMEDIES:
        return None
    where = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return f"{where}{error.strerror}; {REMEDIES[error.errno]}"
