"""`vitkit explain --faithfulness`: which methods tell more than random numbers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import typer

from vitkit.cli.screen import Screen

if TYPE_CHECKING:
    from vitkit.classifier import Classifier
    from vitkit.data.sources import Limits
    from vitkit.explain.contest import Contest
    from vitkit.explain.planted import Example
    from vitkit.explain.randomisation import Cascade

SHAPES = "shapes"  # built-in data whose objects are known
OTHER_SEED = 1  # of shapes that no model has learned from, which all have seed 0
FORGOTTEN = 16  # images for which the model's weights are made random


def faithfulness(
    classifier: "Classifier",
    inputs: Sequence[str],
    methods: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    images: int,
    limits: "Limits",
    *,
    as_json: bool,
) -> None:
    """Put methods to the test on the first readable images, and print how they did."""
    import torch

    from vitkit.explain.contest import contest
    from vitkit.explain.randomisation import randomise
    from vitkit.explain.target import Target

    examples = list(islice(examples_of(classifier, inputs, images, limits), images))
    with Screen() as screen:
        result = contest(
            classifier.model, examples, methods=methods, options=options, listen=screen
        )
        few = examples[:FORGOTTEN]
        device = classifier.engine.device
        cascades = randomise(
            classifier.model,
            torch.stack([example.x for example in few]).to(device),
            Target(torch.tensor([example.label for example in few], device=device)),
            methods=methods,
            options=options,
            listen=screen,
        )
    if as_json:
        forgotten = {cascade.method: cascade.to_json() for cascade in cascades}
        typer.echo(json.dumps({**result.to_json(), "randomisation": forgotten}, indent=2))
    else:
        show(result, {cascade.method: cascade for cascade in cascades})


def examples_of(
    classifier: "Classifier", inputs: Sequence[str], images: int, limits: "Limits"
) -> "Iterator[Example]":
    """Images with the class that the model names or, of `shapes`, with their class and mask."""
    import torch

    from vitkit.data.sources import open_inputs
    from vitkit.data.synthetic import CLASSES
    from vitkit.explain.planted import Example, planted

    if len(inputs) == 1 and inputs[0].partition(":")[0] == SHAPES:
        numbers = {label: classifier.label_of(name) for label, name in enumerate(CLASSES)}
        size = max(classifier.preprocess.image_size)
        for each in planted(classifier.preprocess, count=images, size=size, seed=OTHER_SEED):
            yield Example(each.x, numbers[each.label], each.mask)
        return
    for chunk in classifier.inputs(open_inputs(inputs, limits=limits)):
        for one in chunk:
            if one.pixels is not None:
                batch = torch.from_numpy(one.pixels)[None]
                label = int(classifier.engine.probabilities(batch)[0].argmax())
                yield Example(classifier.preprocess.normalise(batch)[0], label)


def show(result: "Contest", cascades: "Mapping[str, Cascade]") -> None:
    """A row for each method, the best first, and what the columns mean."""
    from vitkit.explain.contest import HEAD
    from vitkit.explain.paired import FEWEST

    head = (*HEAD[:-1], "forgetting", HEAD[-1])
    rows = []
    for entry in result.entries:
        *scores, verdict = entry.words
        rows.append((*scores, f"{cascades[entry.method].correlations[-1]:+.2f}", verdict))
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
    few = f", and verdicts need {FEWEST}" if result.images < FEWEST else ""
    chance = "" if result.chance is None else f"; objects cover {result.chance:.1%} of an image"
    typer.echo(
        f"\n{result.images:,} image{'' if result.images == 1 else 's'}{few}{chance}. "
        "Means, in brackets the difference to random maps with its 95 % interval.\n"
        "deletion    share of the class as what a map shows is removed: less is better\n"
        "insertion   the same as it is put back: more is better\n"
        "pointing    highest points that lie on the object\n"
        "forgetting  correlation with maps of a model whose weights are random: near 1, a method "
        "does not look at the model"
    )
