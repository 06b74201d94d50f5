"""`vitkit data check`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli.options import Data, Device, Json, MaxMegabytes, MaxMegapixels
from vitkit.cli.screen import Screen, counted, visible, warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitkit.data.check.run import DataCheck
    from vitkit.data.sources import Source
    from vitkit.training.label_check import LabelCheck

NAMED = 3  # files of a finding that the table names
Row = tuple[str, int, str]  # finding, files, and a few words


def check(
    data: Data,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="With --folds: settings of training."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="CKPT", help="Look for wrong labels by what this model says."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="The same by models trained for it, on the others.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the page goes; default: runs/check-NAME.")
    ] = None,
    max_unreadable: Annotated[
        float, typer.Option(min=0, max=1, help="Share of files that may be unreadable.")
    ] = 0.01,
    device: Device = "auto",
    max_megapixels: MaxMegapixels = 50,
    max_megabytes: MaxMegabytes = 64,
    as_json: Json = False,
) -> None:
    """Look for unreadable files, copies, leaks between splits, odd images, wrong labels."""
    from vitkit.data.check.run import check_data
    from vitkit.data.sources import Limits, open_source
    from vitkit.errors import ConfigError
    from vitkit.report.check import place, write_check

    if model is not None and folds is not None:
        raise ConfigError("--model and --folds are two ways to find wrong labels; give one")
    if settings and folds is None:
        raise ConfigError(f"{settings[0]} is a setting of training, which only --folds does")
    limits = Limits.of(megapixels=max_megapixels, megabytes=max_megabytes)
    source = open_source(data, limits=limits)
    directory = place(source, out)
    with Screen() as screen:
        found = check_data(source, max_unreadable=max_unreadable, listen=screen)
    labels = check_labels(source, found, model, folds, settings or [], device)
    page = write_check(directory, source, found, labels)
    if as_json:
        doubts = None if labels is None else labels.to_json(source)
        typer.echo(json.dumps({**found.to_json(), "labels": doubts, "page": str(page)}, indent=2))
    else:
        show(found, labels, page)
    for line in found.serious:
        warn(line)
    if found.serious:
        raise typer.Exit(1)


def check_labels(
    source: "Source",
    found: "DataCheck",
    model: Path | None,
    folds: int | None,
    settings: "Sequence[str]",
    device: str,
) -> "LabelCheck | None":
    """Likely wrong labels, if a way to find them was given."""
    if model is not None:
        from vitkit.classifier import load
        from vitkit.training.label_check import check_by_classifier

        with Screen() as screen:
            classifier = load(model, device=device, listen=screen)
            return check_by_classifier(source, found, classifier, listen=screen)
    if folds is not None:
        from vitkit.training.label_check import check_by_folds

        with Screen() as screen:
            given = [f"device={device}", *settings]
            return check_by_folds(source, found, folds, given, listen=screen)
    return None


def show(found: "DataCheck", labels: "LabelCheck | None", page: Path) -> None:
    """The findings as a table, and where the page is."""
    summary = found.summary
    splits = "  ".join(f"{name} {sum(counts):,}" for name, counts in summary.counts.items())
    classes = counted(len(summary.classes), "class", "classes")
    typer.echo(f"{counted(summary.images, 'image')} in {classes}: {splits}\n")
    table = [*rows_of(found), *rows_of_labels(found, labels)]
    width = max(len(finding) for finding, _, _ in table)
    typer.echo(f"{'finding':<{width}}  {'files':>7}")
    for finding, files, words in table:
        typer.echo(visible(f"{finding:<{width}}  {files:>7,}  {words}".rstrip()))
    if labels is not None:
        weak = "" if labels.trusted else ", too few to doubt any: train longer (epochs=, minutes=)"
        typer.echo(
            f"\nlabels  {labels.scored:,} images scored by {visible(labels.how)}; first choice is "
            f"the label of {labels.agreement:.0%}{weak}"
        )
    typer.echo(f"\npage  {page}")


def rows_of(found: "DataCheck") -> "Iterator[Row]":
    """A row for each kind of finding, be there any or not."""
    summary, names = found.summary, [sample.name for sample in found.samples]
    yield "unreadable", len(summary.unreadable), named([name for name, _ in summary.unreadable])
    if summary.skipped:
        yield "outside classes", len(summary.skipped), named(summary.skipped)
    yield "exact copies", summary.duplicates, f"of {len(found.exact):,} images" * bool(found.exact)
    pairs = len(found.near.first)
    likeness = f"in {pairs:,} pairs, {found.near.alike.min():.3f} alike and more" if pairs else ""
    yield "near copies", found.near_images, likeness
    yield "leaks", len(found.leaks), named([names[copy.row] for copy in found.leaks])
    yield "label conflicts", len(found.conflicts), named([names[c.row] for c in found.conflicts])
    yield "rare classes", len(found.rare), named(found.rare)
    for some in found.unusual:
        side = "over" if some.rule.above else "under"
        words = f"{some.rule.what} {side} {some.threshold:.3g} (median {some.median:.3g})"
        yield some.rule.finding, len(some.rows), words


def rows_of_labels(found: "DataCheck", labels: "LabelCheck | None") -> "Iterator[Row]":
    """The row of wrong labels, if they were looked for."""
    if labels is not None:
        first = [found.samples[row].name for row in labels.rows[:NAMED].tolist()]
        yield "wrong labels", len(labels.rows), "likely; first " + ", ".join(first)


def named(names: "Sequence[str]") -> str:
    """The first few, and that there are more."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
