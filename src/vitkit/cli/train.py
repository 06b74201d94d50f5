"""`vitkit train`."""

import csv
import json
import os
import shlex
import signal
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitkit.cli.options import Data, Json, Out
from vitkit.cli.screen import Screen, visible, warn
from vitkit.progress import Progress

if TYPE_CHECKING:
    from vitkit.training.config import Resolved
    from vitkit.training.directory import Run
    from vitkit.training.prepare import Prepared

NAMED = 10  # classes that a plan shows


def train(
    data: Data,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings, such as epochs=10."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A name from `vitkit models`, or auto: chosen for the data.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Settings that belong together: small, finetune, deit, ...; or a .yaml."),
    ] = None,
    init: Annotated[
        str | None, typer.Option(metavar="CKPT", help="Weights to start from; hf-hub:owner/name.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="CKPT", help="A model to learn from as well.")
    ] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="With --resume: take other settings and other data."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a classifier on a folder of images."""
    from vitkit import api
    from vitkit.errors import ConfigError
    from vitkit.training.config import parse
    from vitkit.training.directory import check_directory
    from vitkit.training.distributed import joined
    from vitkit.training.prepare import prepare

    options = {"model.name": model, "recipe": recipe, "init": init, "distill.teacher": teacher}
    overrides = {**{key: value for key, value in options.items() if value}, **parse(settings or [])}
    if allow_changes and not resume:
        raise ConfigError("--allow-changes goes with --resume; a new run has nothing to change")
    if resume and out is None:
        raise ConfigError("--resume needs --out, the directory of the run to go on with")
    with joined() as group:
        with Screen(quiet=not group.first) as screen:  # weights may have to be fetched
            resolved, resume = api.settle(
                *(data, overrides, out),
                resume=resume,
                allow_changes=allow_changes,
                group=group,
                listen=screen,
            )
        if not dry_run:
            run_and_show(
                data, resolved, out, resume=resume, allow_changes=allow_changes, as_json=as_json
            )
            return
        if out is not None:
            check_directory(out, resume)
        with Screen(quiet=not group.first) as screen:
            prepared = prepare(data, resolved, listen=screen, group=group)
        if group.first:
            show_plan(prepared, as_json=as_json)


def run_and_show(
    data: str,
    resolved: "Resolved",
    out: Path | None,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    as_json: bool = False,
) -> None:
    """Train behind a progress bar and print where the result is; of many ranks only the first does.

    Exit code 130 if interrupted, 1 if images were left out.
    """
    from vitkit import api
    from vitkit.training.distributed import here
    from vitkit.training.run import EVALUATE

    first = here().first
    with Screen(quiet=not first) as screen, interruptible(screen) as stop:
        shown = False

        def listen(progress: Progress) -> None:
            nonlocal shown
            if not shown:  # once images are read: by now a mistake would have ended the command
                show_settings(screen, resolved)
                warn_of_other_work(screen, resolved)
            shown = True
            stop.scoring = progress.phase == EVALUATE
            screen(progress)

        run = api.train_and_report(
            data,
            resolved,
            out,
            resume=resume,
            allow_changes=allow_changes,
            listen=listen,
            stop=stop,
        )
    if not run.finished:
        again = shlex.join(["vitkit", "train", data, "--out", str(run.directory), "--resume"])
        screen.say(f"interrupted and saved; to go on:\n  {again}")
        raise typer.Exit(130)
    if not first:
        return
    if as_json:
        scores = run.evaluation.to_json() if run.evaluation is not None else {}
        typer.echo(json.dumps({"directory": str(run.directory), **scores}, indent=2))
    else:
        show_result(run)
    if warn_of_unreadable(run):
        raise typer.Exit(1)


def warn_of_other_work(screen: Screen, resolved: "Resolved") -> None:
    """Threads that wait for one another crawl where another program keeps a core busy."""
    from vitkit.data.loader import default_workers

    busy, cores = os.getloadavg()[0], default_workers()
    if busy > cores / 2 and resolved.settings.threads is None and cores > 1:
        screen.say(f"other work keeps {busy:.1f} of {cores} cores busy; threads=1 may be faster")


class Stop:
    """Whether the user wants an end: asked after every step, and told once those are over."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.asked = self.training = self.scoring = False

    def __call__(self) -> bool:
        self.training = True
        return self.asked

    def ask(self, number: int, frame: FrameType | None) -> None:
        """What a signal does."""
        if self.asked or not (self.training or self.scoring):
            raise KeyboardInterrupt
        self.asked = True
        if self.scoring:
            self.screen.say("training is over and saved; Ctrl-C again stops without the report")
        else:
            self.screen.say("stopping after this step; Ctrl-C again stops at once, without saving")


@contextmanager
def interruptible(screen: Screen) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask for an end after this step; the second time they end at once.

    So do they before the first step, when there is nothing to save. After the last one only the
    second time counts: what is left is short.
    """
    stop = Stop(screen)
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_settings(screen: Screen, resolved: "Resolved", *, defaults: bool = False) -> None:
    """The settings by their origin, `defaults` last or only counted; and why, if chosen."""
    from vitkit.training.environment import settled

    for reason in resolved.reasons:
        width = screen.console.width if screen.console.is_terminal else len(reason)
        screen.say(textwrap.fill(reason, width, break_on_hyphens=False))
    groups: dict[str, list[str]] = {}
    for row in settled(resolved):
        groups.setdefault(row.origin, []).append(str(row))
    rest = groups.pop("default", [])
    if not defaults:
        rest = [f"the other {len(rest)}, which --dry-run shows and config.yaml holds"]
    title = max(map(len, (*groups, "defaults"))) + 2
    for origin, rows in (*groups.items(), ("defaults", rest)):
        lines = textwrap.wrap(
            " ".join(rows),
            max(screen.console.width, 40 + title) - title,
            break_long_words=False,
            break_on_hyphens=False,
        )
        text = f"\n{' ' * title}".join(lines)
        screen.say(f"{origin:<{title}}{text}", style="dim" if origin == "defaults" else None)


def show_plan(prepared: "Prepared", *, as_json: bool) -> None:
    """What a run would do."""
    show_settings(Screen(), prepared.resolved, defaults=True)
    plan = describe_plan(prepared)
    if as_json:
        typer.echo(json.dumps(plan, indent=2))
        return
    height, width = plan["image_size"]
    classes = plan["classes"]
    named = ", ".join(classes[:NAMED]) + (", ..." if len(classes) > NAMED else "")
    splits = ", ".join(f"{name} {size:,}" for name, size in plan["splits"].items())
    images = f"{plan['images']:,} images" if plan["images"] else "images not counted yet"
    typer.echo(f"data        {visible(plan['data'])}: {images}")
    typer.echo(f"splits      {splits or 'made by the run'}")
    typer.echo(f"classes     {len(classes)}: {visible(named)}")
    typer.echo(f"model       {plan['model']}, {plan['parameters']:,} parameters")
    typer.echo(f"input       {height}x{width} pixels, {plan['channels']} channels")
    typer.echo(f"device      {plan['device']}")
    typer.echo(f"recipe      {plan['recipe'] or 'none'}")
    length = f"{plan['minutes']:g} minutes" if plan["minutes"] else f"{plan['epochs']} epochs"
    typer.echo(f"length      {length}")
    for note in plan["notes"]:
        typer.echo(f"note        {visible(note)}")
    for doubt in plan["cautions"]:
        typer.echo(f"caution     {visible(doubt)}")


def describe_plan(prepared: "Prepared") -> dict[str, Any]:
    """What a run would do, as data; `splits` are those that the data has."""
    source, settings = prepared.source, prepared.resolved.settings
    return {
        "data": source.name,
        "images": sum(source.counts.values()),
        "splits": {split: count for split, count in source.counts.items() if split},
        "classes": source.classes,
        "model": settings.architecture,
        "parameters": sum(parameter.numel() for parameter in prepared.model.parameters()),
        "image_size": prepared.preprocess.image_size,
        "channels": prepared.preprocess.channels,
        "device": str(prepared.device),
        "recipe": settings.recipe,
        "epochs": settings.epochs,
        "minutes": settings.minutes,
        "reasons": prepared.resolved.reasons,
        "notes": prepared.notes,
        "cautions": prepared.doubts(),
    }


def show_result(run: "Run") -> None:
    """Where a finished run is, and how good it became."""
    evaluation = run.evaluation
    if evaluation is not None:
        low, high = evaluation.intervals["top1"]
        top5 = f"top-5 {evaluation.top5:.2%}  " if len(evaluation.classes) > 5 else ""
        typer.echo(
            f"top-1 {evaluation.top1:.2%} ({low:.1%} to {high:.1%})  {top5}"
            f"macro-F1 {evaluation.macro_f1:.3f}  of {evaluation.images:,} images: "
            f"{evaluation.split}"
        )
    typer.echo(f"weights  {run.directory / 'best'}")
    if (report := run.directory / "report.html").is_file():
        typer.echo(f"report   {report}")


def warn_of_unreadable(run: "Run") -> bool:
    """Say how many images were left out, and which file lists them; were there any?"""
    from vitkit.training.directory import UNREADABLE

    path = run.directory / UNREADABLE
    if not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        count = sum(1 for _ in csv.DictReader(file))
    warn(f"unreadable images left out: {count:,}, listed in {path}")
    return True
