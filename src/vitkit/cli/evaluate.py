"""`vitkit eval`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli import scores
from vitkit.cli.options import Device, Json, MaxMegabytes, MaxMegapixels, ModelOfFile
from vitkit.cli.screen import Screen, warn

if TYPE_CHECKING:
    from vitkit.classifier import Classifier
    from vitkit.data.sources import Limits
    from vitkit.evaluation.compare import Comparison
    from vitkit.evaluation.metrics import Evaluation


def evaluate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="CKPT [CKPT] DATA",
            help="A run, a checkpoint directory, a weights file or hf-hub:owner/name, or two to "
            "compare; then a folder or .zip of class folders, a .csv or .jsonl manifest, `digits` "
            "or `shapes`.",
        ),
    ],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    corruptions: Annotated[
        bool,
        typer.Option(
            "--corruptions",
            help="Also with noise, blur, fog, JPEG and more: 85 times the work.",
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="A new page to write, such as scores.html.")
    ] = None,
    model: ModelOfFile = None,
    device: Device = "auto",
    max_megapixels: MaxMegapixels = 50,
    max_megabytes: MaxMegabytes = 64,
    as_json: Json = False,
) -> None:
    """Score a model on images, or compare two on the same."""
    from vitkit.data.sources import Limits

    *checkpoints, data = parted(inputs)
    check_new(report)
    classifiers = [load_one(checkpoint, model, device) for checkpoint in checkpoints]
    limits = Limits.of(megapixels=max_megapixels, megabytes=max_megabytes)
    with Screen() as screen:
        evaluation, comparison = measure(classifiers, data, split, corruptions, limits, screen)
    screen.say(f"scored {evaluation.images:,} images: {evaluation.split}")
    show(evaluation, comparison, checkpoints, as_json=as_json)
    if report is not None:
        from vitkit.report.scores import write_scores

        write_scores(report, evaluation, data, checkpoints, comparison)
        screen.say(f"report {report}")
    warn_of_unreadable(evaluation)


def measure(
    classifiers: "Sequence[Classifier]",
    data: str,
    split: str,
    corruptions: bool,
    limits: "Limits",
    screen: Screen,
) -> "tuple[Evaluation, Comparison | None]":
    """The scores of one model, or of the first of two and how they compare."""
    from vitkit import api

    if len(classifiers) == 1:
        alone = api.evaluate(
            classifiers[0], data, split, corruptions=corruptions, limits=limits, listen=screen
        )
        return alone, None
    first, second = classifiers
    comparison = api.compare(
        first, second, data, split, corruptions=corruptions, limits=limits, listen=screen
    )
    return comparison.first, comparison


def show(
    evaluation: "Evaluation",
    comparison: "Comparison | None",
    checkpoints: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """The scores of one model, or two beside each other."""
    if as_json and comparison is not None:
        typer.echo(json.dumps({"models": checkpoints, **comparison.to_json()}, indent=2))
    elif as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
    elif comparison is not None:
        scores.show_comparison(comparison, checkpoints)
    else:
        scores.show(evaluation)


def parted(inputs: Sequence[str]) -> Sequence[str]:
    """One or two checkpoints, and data.

    Raises:
        ConfigError: it is another number of arguments.
    """
    from vitkit.errors import ConfigError

    if len(inputs) < 2:
        raise ConfigError("Missing argument 'DATA'; see vitkit eval --help")
    if len(inputs) > 3:
        raise ConfigError(
            f"{len(inputs)} arguments are too many; give CKPT DATA, or CKPT CKPT DATA to compare"
        )
    return inputs


def check_new(report: Path | None) -> None:
    """Find out before the work that a page would take the place of something.

    Raises:
        ConfigError: it would.
    """
    from vitkit.errors import ConfigError

    if report is not None and report.exists():
        raise ConfigError(f"{report} exists already; choose another name for the report")


def load_one(checkpoint: str, model: str | None, device: str) -> "Classifier":
    """A classifier, with what was guessed of it said."""
    from vitkit.classifier import load

    with Screen() as screen:
        classifier = load(checkpoint, model=model, device=device, listen=screen)
    for note in classifier.notes:
        warn(f"guessed {note}")
    return classifier


def warn_of_unreadable(evaluation: "Evaluation") -> None:
    """List the images that were left out, which make it exit code 1."""
    for name, reason in evaluation.unreadable:
        warn(f"left out {name}: {reason}")
    if evaluation.unreadable:
        raise typer.Exit(1)
