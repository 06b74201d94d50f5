"""`vitkit study`."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli.options import Json
from vitkit.cli.screen import Screen
from vitkit.cli.train import interruptible, warn_of_unreadable
from vitkit.progress import Progress

if TYPE_CHECKING:
    from vitkit.study.conditions import Conditions
    from vitkit.study.design import Study
    from vitkit.study.record import Record


def study(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which; without one, all are listed.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of every arm, such as threads=1."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="As for `vitkit train`; default: digits.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of each arm; default: 20.")] = None,
    minutes: Annotated[float | None, typer.Option(help="The same by the clock.")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each arm, for mean and spread; default: 1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where it goes; default: runs/study-NAME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study in --out; what is done stays.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a published claim to the test, under equal conditions."""
    from vitkit.study.catalogue import STUDIES, find_study
    from vitkit.study.conditions import make_conditions
    from vitkit.study.record import read_conditions
    from vitkit.training.config import parse

    if name is None:
        show_list(STUDIES, as_json=as_json)
        return
    chosen = find_study(name)
    directory = out or Path("runs", f"study-{name}")
    conditions = make_conditions(
        chosen,
        data=data,
        epochs=epochs,
        minutes=minutes,
        seeds=seeds,
        settings=parse(settings or []),
        saved=read_conditions(directory, chosen) if resume else None,
    )
    run_and_show(chosen, conditions, directory, resume=resume, as_json=as_json)


def show_list(studies: "tuple[Study, ...]", *, as_json: bool) -> None:
    """Every study with its question."""
    if as_json:
        keys = ("name", "question", "claim", "source")
        listed = [{key: getattr(study, key) for key in keys} for study in studies]
        typer.echo(json.dumps(listed, indent=2))
        return
    width = max(len(study.name) for study in studies)
    for study in studies:
        typer.echo(f"{study.name:<{width}}  {study.question}")


def run_and_show(
    study: "Study", conditions: "Conditions", directory: Path, *, resume: bool, as_json: bool
) -> None:
    """Run a study behind a progress bar and print what came out.

    Exit code 130 if interrupted, 1 if images were left out.
    """
    from vitkit.study.run import run_study
    from vitkit.training.run import EVALUATE

    with Screen() as screen, interruptible(screen) as stop:

        def listen(progress: Progress) -> None:
            stop.scoring = progress.phase == EVALUATE
            screen(progress)

        record = run_study(study, conditions, directory, resume=resume, listen=listen, stop=stop)
    if not record.finished:
        again = shlex.join(["vitkit", "study", study.name, "--out", str(directory), "--resume"])
        screen.say(f"interrupted and saved; to go on:\n  {again}")
        raise typer.Exit(130)
    if as_json:
        typer.echo(json.dumps(record.to_json(), indent=2))
    else:
        show_result(record)
    first = next(iter(record.results.values())).first
    if warn_of_unreadable(first.run):
        raise typer.Exit(1)


def show_result(record: "Record") -> None:
    """The arms as a table, the outcome as a sentence, and where the page is."""
    from vitkit.study.page import PAGE

    teacher = [record.teacher] if record.teacher else []
    rows = [*teacher, *record.arms]
    width = max(len(arm.title) for arm, _ in rows)
    typer.echo(f"{'':<{width}}   top-1  +/-  parameters  MMACs  tokens  epochs  images/s  seconds")
    for arm, result in rows:
        run = result.first
        typer.echo(
            f"{arm.title:<{width}}  {100 * result.top1:>6.2f} {100 * result.margin:>4.1f}"
            f"  {run.parameters:>10,}  {run.macs / 1e6:>5.1f}  {run.tokens or '-':>6}"
            f"  {run.epochs:>6,}  {run.images_per_second:>8,.0f}  {result.seconds:>7,.0f}"
        )
    if record.outcome is not None:
        typer.echo(f"\n{record.outcome.sentence}")
    typer.echo(f"\npage  {record.directory / PAGE}")
