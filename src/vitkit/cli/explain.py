"""`vitkit explain`."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitkit.cli.faithfulness import faithfulness
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
    from vitkit.classifier import Classifier
    from vitkit.data.sources import Source
    from vitkit.report.explained import Explained

ALL = "all"
OPACITY = 0.6
TESTED = 200  # images, by --faithfulness


def explain(
    checkpoint: Checkpoint,
    inputs: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Images, folders, zips or globs.")
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(help="relevance, rollout, gradcam, ...; several times, or all."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="CLASS", help="What to explain; default: the best class.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="CLASS", help="What speaks for the target, not for this.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of the method, such as layer=3 or head=0."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Show the cells as they are.")] = False,
    opacity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help=f"Of the map over the image; default: {OPACITY}."),
    ] = None,
    arrays: Annotated[bool, typer.Option("--arrays", help="Write .npz files too.")] = False,
    faithful: Annotated[
        bool,
        typer.Option(
            "--faithfulness", help="Test methods against random maps: a table, no pictures."
        ),
    ] = False,
    images: Annotated[
        int | None, typer.Option(min=1, help=f"With --faithfulness: how many; default: {TESTED}.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A new directory; default: runs/explain-NAME.")
    ] = None,
    model: ModelOfFile = None,
    device: Device = "auto",
    max_megapixels: MaxMegapixels = 50,
    max_megabytes: MaxMegabytes = 64,
    as_json: Json = False,
) -> None:
    """Show what in images speaks for a class.

    Without --method every quick one is shown; beside them always `random`, which knows nothing.
    """
    from vitkit.classifier import load
    from vitkit.data.sources import Limits, open_inputs
    from vitkit.report.explained import PAGE, place, write_explained
    from vitkit.report.inside import inside

    of_pictures = {
        "--target": target is not None,
        "--against": against is not None,
        "--raw": raw,
        "--opacity": opacity is not None,
        "--arrays": arrays,
        "--out": out is not None,
    }
    check_together(faithful, [name for name, given in of_pictures.items() if given], images)
    opacity = OPACITY if opacity is None else opacity
    limits = Limits.of(megapixels=max_megapixels, megabytes=max_megabytes)
    with Screen() as screen:
        classifier = load(checkpoint, model=model, device=device, listen=screen)
    for note in classifier.notes:
        warn(f"guessed {note}")
    methods = choose(classifier, method or [])
    options = read_options(methods, option or [])
    if faithful:
        faithfulness(
            classifier, inputs, methods, options, images or TESTED, limits, as_json=as_json
        )
        return
    check_classes(classifier, target, against)
    source = open_inputs(inputs, limits=limits)
    directory = place(checkpoint, out)
    explained: list[Explained] = []
    failed: list[tuple[str, str]] = []
    with Screen() as screen:
        for one in explain_each(classifier, source, methods, options, target, against, failed):
            directory.mkdir(parents=True, exist_ok=True)  # once there is something to put there
            write_pictures(directory, one, raw=raw, opacity=opacity, arrays=arrays)
            explained.append(one)
            screen(Progress("explain", len(explained) + len(failed), len(source.samples)))
    if explained:
        shown = [one.maps[0].image.transpose(2, 0, 1) for one in explained]
        inner = inside(classifier, [each[: classifier.preprocess.channels] for each in shown])
        page = write_explained(
            directory / PAGE, explained, classifier, inner=inner, raw=raw, opacity=opacity
        )
        tell(explained, page, as_json=as_json)
    for name, reason in failed:
        warn(f"left out {name}: {reason}")
    if failed:
        raise typer.Exit(1)


def check_together(faithful: bool, of_pictures: Sequence[str], images: int | None) -> None:
    """Check that no option is given that would change nothing.

    Raises:
        ConfigError: one of pictures with --faithfulness, or --images without it.
    """
    from vitkit.errors import ConfigError

    if faithful and of_pictures:
        which = "it" if len(of_pictures) == 1 else "them"
        raise ConfigError(
            f"{', '.join(of_pictures)} cannot go with --faithfulness, which makes a table about "
            f"the classes that the model names; leave {which} out"
        )
    if not faithful and images is not None:
        raise ConfigError(
            f"--images={images} needs --faithfulness; pictures are made of all images"
        )


def choose(classifier: "Classifier", names: Sequence[str]) -> list[str]:
    """The methods to show, the control last.

    Raises:
        ConfigError: one that does not exist, or that the model is not for.
    """
    from vitkit.errors import ConfigError
    from vitkit.explain.methods import CONTROL, METHODS, find_method, methods_for

    possible = methods_for(classifier.model)
    if not names:
        chosen = [name for name in possible if not METHODS[name].costly]
    elif ALL in names:
        chosen = list(possible)
    else:
        chosen = list(dict.fromkeys(names))
    for name in chosen:
        if find_method(name).attention and name not in possible:
            fit = ", ".join(one for one in possible if one != CONTROL)
            raise ConfigError(
                f"{name} reads attention, which {classifier.architecture} has none of; "
                f"choose among {fit}"
            )
    order = list(METHODS)
    return sorted({*chosen, CONTROL}, key=order.index)


def read_options(methods: Sequence[str], pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options for each method that has them, by KEY=VALUE.

    Raises:
        ConfigError: not of that form, no method that is shown has such an option, or it is of
            another kind.
    """
    import yaml

    from vitkit.errors import ConfigError, nearest
    from vitkit.explain.methods import find_method
    from vitkit.training.recipe import number_or_word

    options: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--option {pair} is not KEY=VALUE, such as layer=3")
        having = [name for name in methods if key in find_method(name).options]
        if not having:
            known = sorted({o for name in methods for o in find_method(name).options})
            raise ConfigError(
                f"no method that is shown has an option {key!r}{nearest(key, known)}; "
                f"they have {', '.join(known)}"
            )
        try:
            value = number_or_word(yaml.safe_load(text))
        except (yaml.YAMLError, ValueError, RecursionError):  # dates that no calendar has
            raise ConfigError(f"--option {pair} cannot be read as a value; quote it") from None
        for name in having:
            options[name][key] = value
    for name in methods:
        find_method(name, options[name])
    return options


def check_classes(classifier: "Classifier", target: str | None, against: str | None) -> None:
    """Find out before any image is read that a class is not known."""
    for name in (target, against):
        if name is not None:
            classifier.label_of(name)


def explain_each(
    classifier: "Classifier",
    source: "Source",
    methods: Sequence[str],
    options: dict[str, dict[str, Any]],
    target: str | None,
    against: str | None,
    failed: list[tuple[str, str]],
) -> "Iterator[Explained]":
    """Every image that can be read, with its maps; the others go to `failed`."""
    from vitkit.report.explained import Explained
    from vitkit.report.inside import thoughts

    seen: Counter[str] = Counter()  # files of the same name in different folders
    for chunk in classifier.inputs(source, batch_size=8):
        for one in chunk:
            name = source.samples[one.index].name
            if one.pixels is None:
                failed.append((name, one.error))
                continue
            maps = [
                classifier.explain_pixels(
                    one.pixels, method, target, against=against, **options[method]
                )
                for method in methods
            ]
            stem = Path(name).stem
            prediction = classifier.predict_pixels(one.pixels)
            steps = thoughts(classifier, one.pixels)
            yield Explained(name, prediction, maps, seen[stem], steps)
            seen[stem] += 1


def write_pictures(
    directory: Path, one: "Explained", *, raw: bool, opacity: float, arrays: bool
) -> None:
    """A picture, and perhaps the arrays, of each map of an image."""
    for each in one.maps:
        stem = directory / one.file_of(each.method)
        each.save(stem.with_name(stem.name + ".png"), opacity=opacity, smooth=not raw)
        if arrays:
            each.save(stem.with_name(stem.name + ".npz"))


def tell(explained: "Sequence[Explained]", page: Path, *, as_json: bool) -> None:
    """What was made of which image, and where the page is."""
    if as_json:
        rows = [one.to_json() for one in explained]
        typer.echo(json.dumps({"page": str(page), "images": rows}, indent=2))
        return
    for one in explained:
        best = one.prediction
        typer.echo(visible(f"{one.name}  {best.label} {best.score:.1%}"))
    typer.echo(f"pictures  {page.parent}")
    typer.echo(f"page      {page}")
