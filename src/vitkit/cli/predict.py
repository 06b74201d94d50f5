"""`vitkit predict`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vitkit.cli.options import (
    Checkpoint,
    Device,
    Json,
    MaxMegabytes,
    MaxMegapixels,
    ModelOfFile,
)
from vitkit.cli.screen import Screen, visible, warn
from vitkit.progress import Progress


def predict(
    checkpoint: Checkpoint,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="Images, folders, zips or globs.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="A new .csv, .jsonl or .parquet file.")
    ] = None,
    topk: Annotated[int, typer.Option(min=1, help="How many classes each row names.")] = 5,
    embed: Annotated[bool, typer.Option("--embed", help="Features instead of classes.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 32,
    model: ModelOfFile = None,
    device: Device = "auto",
    max_megapixels: MaxMegapixels = 50,
    max_megabytes: MaxMegabytes = 64,
    as_json: Json = False,
) -> None:
    """Name what is in images."""
    from vitkit.classifier import load
    from vitkit.cli.writer import Writer
    from vitkit.data.sources import Limits, open_inputs

    writer = Writer(out, json=as_json)
    limits = Limits.of(megapixels=max_megapixels, megabytes=max_megabytes)
    source = open_inputs(inputs, limits=limits)
    with Screen() as screen:
        classifier = load(checkpoint, model=model, device=device, listen=screen)
    for note in classifier.notes:
        warn(f"guessed {note}")
    quiet = out is None and sys.stdout.isatty()  # the rows themselves show how far it is
    failed: list[tuple[str, str]] = []
    with Screen() as screen, writer:
        for answer in classifier.stream(source, features=embed, batch_size=batch_size):
            name = source.samples[answer.index].name
            if answer.values is None:
                failed.append((name, answer.error))
            elif embed:
                writer.embedding(name, answer.values)
            else:
                prediction = classifier.prediction(answer.values, topk)
                writer.prediction(name, [(s.label, s.score) for s in prediction.topk])
            if not quiet:
                screen(Progress("predict", answer.index + 1, len(source.samples)))
    for name, reason in failed:
        warn(f"left out {name}: {reason}")
    if out is not None:
        screen.say(visible(f"{writer.rows:,} rows in {out}"))
    if out is not None and as_json:
        unreadable = [{"file": name, "reason": reason} for name, reason in failed]
        result = {"out": str(out), "rows": writer.rows, "unreadable": unreadable}
        typer.echo(json.dumps(result, indent=2))
    if failed:
        warn(f"{len(failed)} of {len(source.samples)} inputs could not be read")
        raise typer.Exit(1)
