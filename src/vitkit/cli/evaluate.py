"""`vitkit eval`."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli.options import (
    Checkpoint,
    Data,
    Device,
    Json,
    MaxMegabytes,
    MaxMegapixels,
    ModelOfFile,
)
from vitkit.cli.screen import Screen, visible, warn

if TYPE_CHECKING:
    from vitkit.evaluation.metrics import Evaluation

CONFUSION_COLUMNS = 12  # a terminal holds no more


def evaluate(
    checkpoint: Checkpoint,
    data: Data,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    model: ModelOfFile = None,
    device: Device = "auto",
    max_megapixels: MaxMegapixels = 50,
    max_megabytes: MaxMegabytes = 64,
    as_json: Json = False,
) -> None:
    """Score a model: top-1, top-5, per class, confusion, calibration."""
    from vitkit import api
    from vitkit.classifier import load
    from vitkit.data.sources import Limits

    with Screen() as screen:
        classifier = load(checkpoint, model=model, device=device, listen=screen)
    for note in classifier.notes:
        warn(f"guessed {note}")
    limits = Limits.of(megapixels=max_megapixels, megabytes=max_megabytes)
    with Screen() as screen:
        evaluation = api.evaluate(classifier, data, split, limits=limits, listen=screen)
    screen.say(f"scored {evaluation.images:,} images: {evaluation.split}")
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
    else:
        show(evaluation)
    for name, reason in evaluation.unreadable:
        warn(f"left out {name}: {reason}")
    if evaluation.unreadable:
        raise typer.Exit(1)


def show(evaluation: "Evaluation") -> None:
    """The scores as tables."""
    typer.echo(
        f"top-1 {evaluation.top1:.2%}  top-5 {evaluation.top5:.2%}  "
        f"macro-F1 {evaluation.macro_f1:.3f}  calibration error {evaluation.ece:.3f}  "
        f"of {evaluation.images:,} images\n"
    )
    names = [visible(name) for name in evaluation.classes]
    width = max(5, *map(len, names))
    typer.echo(f"{'class':<{width}}  {'images':>6}  {'precision':>9}  {'recall':>6}  {'F1':>5}")
    for name, score in zip(names, evaluation.per_class.values(), strict=True):
        typer.echo(
            f"{name:<{width}}  {score.images:>6}  {score.precision:>9.3f}  {score.recall:>6.3f}"
            f"  {score.f1:>5.3f}"
        )
    if len(evaluation.classes) <= CONFUSION_COLUMNS:
        typer.echo("\nconfusion (row: truth, column: prediction)")
        cell = max(len(str(value)) for row in evaluation.confusion for value in row) + 2
        for name, row in zip(names, evaluation.confusion, strict=True):
            typer.echo(f"{name:<{width}}" + "".join(f"{value:>{cell}}" for value in row))
