"""`vitkit train`."""

import shlex
import signal
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli.options import Data, Debug, Out
from vitkit.cli.screen import Screen
from vitkit.progress import Progress

if TYPE_CHECKING:
    from vitkit.training.config import Resolved
    from vitkit.training.run import Prepared, Run


def train(
    data: Data,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings, such as epochs=10."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A name from `vitkit models`.")] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, train nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train a classifier on a folder of images."""
    from vitkit import api
    from vitkit.errors import ConfigError
    from vitkit.training import run as training
    from vitkit.training.config import resolve

    overrides = [*([f"model.name={model}"] if model else []), *(settings or [])]
    if resume and out is None:
        raise ConfigError("--resume needs --out, the directory of the run to go on with")
    if resume and out is not None:
        resolved = training.resumed_settings(out, overrides)
    else:
        resolved = resolve(overrides)
    if dry_run:
        show_plan(training.prepare(data, resolved))
        return
    directory = out or api.new_directory(data, resolved)
    run_and_show(data, resolved, directory, resume=resume)


def run_and_show(
    data: str, resolved: "Resolved", directory: Path, *, resume: bool = False
) -> "Run":
    """Train behind a progress bar and print where the result is; exit 130 if interrupted."""
    from vitkit import api

    with Screen() as screen, interruptible(screen) as stop:
        shown = False

        def listen(progress: Progress) -> None:
            nonlocal shown
            if not shown:  # once images are read: by now a mistake would have ended the command
                show_settings(screen, resolved)
            shown = True
            screen(progress)

        run = api.run(data, resolved, directory, resume=resume, listen=listen, stop=stop)
    if not run.finished:
        again = shlex.join(["vitkit", "train", data, "--out", str(directory), "--resume"])
        screen.say(f"interrupted and saved; to go on:\n  {again}")
        raise typer.Exit(130)
    show_result(run)
    return run


@contextmanager
def interruptible(screen: Screen) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for an end after this step; the second time they end at once.

    So do they before the first step, when there is nothing to save.
    """
    asked = training = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked or not training:
            raise KeyboardInterrupt
        asked = True
        screen.say("stopping after this step; Ctrl-C again stops at once, without saving")

    def stop() -> bool:
        nonlocal training
        training = True
        return asked

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_settings(screen: Screen, resolved: "Resolved") -> None:
    """The resolved configuration, changed values first with their origin."""
    rows = resolved.rows()
    for row in rows:
        if row.origin != "default":
            screen.say(f"{row}  ({row.origin})")
    rest = " ".join(str(row) for row in rows if row.origin == "default")
    width = max(screen.console.width, 40)
    lines = textwrap.wrap(rest, width - 9, break_long_words=False, break_on_hyphens=False)
    screen.say("defaults " + "\n         ".join(lines), style="dim")


def show_plan(prepared: "Prepared") -> None:
    """What a run would do."""
    screen = Screen()
    show_settings(screen, prepared.resolved)
    source = prepared.source
    parameters = sum(parameter.numel() for parameter in prepared.model.parameters())
    height, width = prepared.preprocess.image_size
    typer.echo(f"data        {source.name}: {len(source.samples):,} images")
    typer.echo(f"classes     {len(source.classes)}: {', '.join(source.classes[:10])}")
    typer.echo(f"model       {prepared.resolved.settings.architecture}, {parameters:,} parameters")
    typer.echo(f"input       {height}x{width} pixels, {prepared.preprocess.channels} channels")
    typer.echo(f"device      {prepared.device}")
    typer.echo(f"epochs      {prepared.resolved.settings.epochs}")


def show_result(run: "Run") -> None:
    """Where a finished run is, and how good it became."""
    evaluation = run.evaluation
    if evaluation is not None:
        typer.echo(
            f"top-1 {evaluation.top1:.2%} of {evaluation.images:,} held-out images"
            f"  (top-5 {evaluation.top5:.2%}, macro-F1 {evaluation.macro_f1:.3f})"
        )
    typer.echo(f"weights  {run.directory / 'best'}")
    if (report := run.directory / "report.html").is_file():
        typer.echo(f"report   {report}")
