"""`vitkit predict`."""

import json
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitkit.classifier import Classifier
    from vitkit.cli.writer import Writer
    from vitkit.data.sources import Source
    from vitkit.training.distributed import Group


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
    """Name what is in images.

    The processes of torchrun share them: each writes a part of --out, of what no part holds yet.
    """
    from vitkit.classifier import load
    from vitkit.cli.parts import part_of, parts
    from vitkit.cli.writer import Writer
    from vitkit.data.sources import Limits, open_inputs
    from vitkit.training.distributed import joined

    writer = Writer(out, json=as_json)
    limits = Limits.of(megapixels=max_megapixels, megabytes=max_megabytes)
    with joined() as group:
        source = open_inputs(inputs, limits=limits)
        total = len(source.samples)
        if group.ranks > 1:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # keeps the rows so far
            source, path = part_of(source, out, group)
            writer = Writer(path)
        with Screen(quiet=not group.first) as screen:
            classifier = load(checkpoint, model=model, device=device, listen=screen)
        for note in classifier.notes if group.first else ():
            warn(f"guessed {note}")
        quiet = out is None and sys.stdout.isatty()  # the rows themselves show how far it is
        with Screen(quiet=quiet or not group.first) as screen, begun(writer, source, group):
            failed = write_rows(
                classifier, source, writer, screen, embed=embed, topk=topk, batch_size=batch_size
            )
        if group.ranks > 1 and not writer.rows:
            path.unlink(missing_ok=True)
        failed = [one for those in group.each(failed) for one in those]
        rows = sum(group.each(writer.rows))
        if not group.first:
            return
    for name, reason in failed:
        warn(f"left out {name}: {reason}")
    if out is not None:
        tell(out, rows, failed, None if group.ranks == 1 else parts(out), as_json=as_json)
    if failed:
        warn(f"{len(failed)} of {total} inputs could not be read")
        raise typer.Exit(1)


def write_rows(
    classifier: "Classifier",
    source: "Source",
    writer: "Writer",
    screen: Screen,
    *,
    embed: bool,
    topk: int,
    batch_size: int,
) -> list[tuple[str, str]]:
    """Write a row for each input; name and reason of those that could not be read."""
    failed = []
    for answer in classifier.stream(source, features=embed, batch_size=batch_size):
        name = source.samples[answer.index].name
        if answer.values is None:
            failed.append((name, answer.error))
        elif embed:
            writer.embedding(name, answer.values)
        else:
            prediction = classifier.prediction(answer.values, topk)
            writer.prediction(name, [(s.label, s.score) for s in prediction.topk])
        screen(Progress("predict", answer.index + 1, len(source.samples)))
    return failed


def tell(
    out: Path,
    rows: int,
    failed: "Sequence[tuple[str, str]]",
    parts: "Sequence[Path] | None",
    *,
    as_json: bool,
) -> None:
    """Say what was written to `out`, or to its `parts` by many ranks."""
    many = f"{rows:,} new rows, with those before in {len(parts or ())} parts of {out}"
    Screen().say(visible(f"{rows:,} rows in {out}" if parts is None else many))
    if as_json:
        places = str(out) if parts is None else [str(part) for part in parts]
        unreadable = [{"file": name, "reason": reason} for name, reason in failed]
        result = {"out": places, "rows": rows, "unreadable": unreadable}
        typer.echo(json.dumps(result, indent=2))


def begun(writer: "Writer", source: "Source", group: "Group") -> AbstractContextManager[object]:
    """The writer's file, but for a rank that has no row to write."""
    return writer if group.ranks == 1 or source.samples else nullcontext()
