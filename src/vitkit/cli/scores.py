"""Scores of one model or two as tables on a terminal."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from vitkit.cli.screen import visible

if TYPE_CHECKING:
    from vitkit.evaluation.compare import Comparison
    from vitkit.evaluation.metrics import Evaluation
    from vitkit.evaluation.robustness import Robustness

CONFUSION_COLUMNS = 12  # a terminal holds no more


def show(evaluation: "Evaluation") -> None:
    """The scores of one model."""
    tables = [headlines(evaluation), classes(evaluation)]
    if len(evaluation.classes) <= CONFUSION_COLUMNS:
        tables.append(confusion(evaluation))
    if evaluation.robustness is not None:
        tables.append(robustness(evaluation.robustness))
    typer.echo("\n\n".join("\n".join(table) for table in tables))


def headlines(evaluation: "Evaluation") -> Iterator[str]:
    """Every score of all images with its interval."""
    from vitkit.evaluation.metrics import SCORES

    yield f"{f'{evaluation.images:,} images':<18} {'score':>7}   95 % interval"
    for key, name in SCORES.items():
        low, high = evaluation.intervals[key]
        note = calibrated(evaluation) if key == "ece" else ""
        yield f"{name:<18} {getattr(evaluation, key):>7.2%}   {low:.2%} to {high:.2%}{note}"


def calibrated(evaluation: "Evaluation") -> str:
    """What the temperature changed, if there is one."""
    if evaluation.temperature == 1:
        return ""
    before = f"{evaluation.ece_uncalibrated:.2%}"
    return f"   {before} before its temperature of {evaluation.temperature:.3g}"


def classes(evaluation: "Evaluation") -> Iterator[str]:
    """Precision, recall and F1 of each class."""
    names = [visible(name) for name in evaluation.classes]
    width = max(5, *map(len, names))
    yield f"{'class':<{width}}  {'images':>6}  {'precision':>9}  {'recall':>6}  {'F1':>5}"
    for name, score in zip(names, evaluation.per_class.values(), strict=True):
        yield (
            f"{name:<{width}}  {score.images:>6}  {score.precision:>9.3f}  {score.recall:>6.3f}"
            f"  {score.f1:>5.3f}"
        )


def confusion(evaluation: "Evaluation") -> Iterator[str]:
    """Images of each truth by the name given."""
    names = [visible(name) for name in evaluation.classes]
    width = max(5, *map(len, names))
    cell = max(len(str(value)) for row in evaluation.confusion for value in row) + 2
    yield "confusion (row: truth, column: prediction)"
    for name, row in zip(names, evaluation.confusion, strict=True):
        yield f"{name:<{width}}" + "".join(f"{value:>{cell}}" for value in row)


def robustness(borne: "Robustness") -> Iterator[str]:
    """Top-1 by kind and severity."""
    from vitkit.evaluation.corruptions.levels import in_words

    kinds = {kind.replace("_", " "): scores for kind, scores in borne.kinds.items()}
    width = max(map(len, ("severity", *kinds)))
    yield f"top-1 on corrupted images; {in_words(min(borne.image_size))}"
    numbers = "".join(f"{number:>8}" for number in range(1, len(borne.by_severity) + 1))
    yield f"{'severity':<{width}}{numbers}{'mean':>9}"
    for kind, scores in kinds.items():
        mean = sum(scores) / len(scores)
        yield f"{kind:<{width}}" + "".join(f"{score:>8.1%}" for score in scores) + f"{mean:>9.1%}"
    means = "".join(f"{score:>8.1%}" for score in borne.by_severity)
    low, high = borne.interval
    yield f"{'mean':<{width}}{means}{borne.mean:>9.1%}   95 % interval {low:.1%} to {high:.1%}"


def show_comparison(comparison: "Comparison", names: Sequence[str]) -> None:
    """The scores of two models side by side, and whether they differ."""
    letters = [f"{letter}  {visible(name)}" for letter, name in zip("AB", names, strict=True)]
    first, second = comparison.first, comparison.second
    tables = [letters, list(side_by_side(comparison)), list(verdict(comparison))]
    tables += [
        [f"{letter}: {line}" if not number else line for number, line in enumerate(robustness(one))]
        for letter, one in zip("AB", (first.robustness, second.robustness), strict=True)
        if one is not None
    ]
    typer.echo("\n\n".join("\n".join(table) for table in tables))


def side_by_side(comparison: "Comparison") -> Iterator[str]:
    """Every score of both, and the difference with its interval."""
    from vitkit.evaluation.metrics import SCORES

    images = f"{comparison.first.images:,} images"
    yield f"{images:<18} {'A':>8} {'B':>8}   B - A   95 % interval, points"
    for key, name in SCORES.items():
        low, high = comparison.intervals[key]
        yield (
            f"{name:<18} {getattr(comparison.first, key):>8.2%} "
            f"{getattr(comparison.second, key):>8.2%} {100 * comparison.difference[key]:>+7.2f}"
            f"   {100 * low:+.2f} to {100 * high:+.2f}"
        )


def verdict(comparison: "Comparison") -> Iterator[str]:
    """McNemar's test in words."""
    yield (
        f"right: both {comparison.both_right:,}, A alone {comparison.only_first:,}, "
        f"B alone {comparison.only_second:,}, neither {comparison.both_wrong:,}"
    )
    p = f"McNemar's exact test p = {comparison.p_value:.3g}"
    if comparison.significant:
        better = "B" if comparison.only_second > comparison.only_first else "A"
        yield f"{better} names more images correctly ({p})"
    else:
        yield f"no difference in top-1 that these images can show ({p})"
