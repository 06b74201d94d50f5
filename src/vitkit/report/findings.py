"""What a check of the data found, as rows of pictures with a few words each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitkit.data.check.copies import Copy, Exact
from vitkit.data.check.near import TURNS
from vitkit.data.check.outliers import Unusual
from vitkit.data.check.run import DataCheck
from vitkit.training.label_check import LabelCheck

Picture = Callable[[int], NDArray[np.uint8]]  # a row of the samples -> (h, w, 3) RGB, not large

TILES, PAIRS = 18, 12  # of a shelf, of single images and of several
PICTURES = 4  # of a tile


@dataclass(frozen=True, slots=True)
class Tile:
    """Images side by side, with what is said of them."""

    images: tuple[NDArray[np.uint8], ...]
    lines: tuple[str, ...]  # the first stands out
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shelf:
    """One kind of finding: the gravest of `total` as tiles."""

    title: str
    note: str
    tiles: tuple[Tile, ...]
    total: int
    wide: bool = False  # tiles of two images or more


def shelves(check: DataCheck, labels: LabelCheck | None, picture: Picture) -> list[Shelf]:
    """A shelf for every kind of which something was found, the gravest first."""
    shown = [
        _leaks(check, picture),
        _conflicts(check, picture),
        *([_suspects(check, labels, picture)] if labels is not None else []),
        _exact(check, picture),
        _near(check, picture),
        *(_unusual(check, some, picture) for some in check.unusual),
    ]
    return [shelf for shelf in shown if shelf.total]


def _leaks(check: DataCheck, picture: Picture) -> Shelf:
    def split(row: int) -> str:
        return check.samples[row].split or "train"

    return Shelf(
        "Shared between splits",
        "Left an image to test on, right its copy in an earlier split: remove one of each.",
        _pairs(
            check,
            check.leaks,
            lambda copy: f"{split(copy.row)} – {split(copy.other)}",
            picture,
        ),
        len(check.leaks),
        wide=True,
    )


def _conflicts(check: DataCheck, picture: Picture) -> Shelf:
    def names(copy: Copy) -> str:
        return " – ".join(check.label(check.samples[row]) for row in (copy.row, copy.other))

    return Shelf(
        "Copies under different labels",
        "One of the two labels is likely wrong.",
        _pairs(check, check.conflicts, names, picture),
        len(check.conflicts),
        wide=True,
    )


def _pairs(
    check: DataCheck, copies: Sequence[Copy], title: Callable[[Copy], str], picture: Picture
) -> tuple[Tile, ...]:
    return tuple(
        Tile(
            (picture(copy.row), picture(copy.other)),
            (title(copy), copy.how if copy.exact else f"{copy.alike:.3f} alike, {copy.how}"),
            (check.samples[copy.row].name, check.samples[copy.other].name),
        )
        for copy in copies[:PAIRS]
    )


def _suspects(check: DataCheck, labels: LabelCheck, picture: Picture) -> Shelf:
    def tiles() -> Iterator[Tile]:
        columns = (labels.rows, labels.suggested, labels.suspicion)
        for row, suggested, suspicion in list(zip(*columns, strict=True))[: 2 * TILES]:
            sample = check.samples[row]
            yield Tile(
                (picture(int(row)),),
                (
                    f"rather {check.summary.classes[suggested]}",
                    f"labelled {check.label(sample)}",
                    f"suspicion {suspicion:.3f}",
                ),
                (sample.name,),
            )

    left_out = f" {labels.left_out:,} were not scored." if labels.left_out else ""
    return Shelf(
        "Likely wrong labels",
        f"By confident learning, the most suspicious first: {labels.scored:,} images scored by "
        f"{labels.how}; its first choice is the label of {labels.agreement:.0%}.{left_out} "
        "The number of wrong ones is an estimate, far too high where the model is weak.",
        tuple(tiles()),
        len(labels.rows),
    )


def _exact(check: DataCheck, picture: Picture) -> Shelf:
    def tile(group: Exact) -> Tile:
        rows = group.rows[:PICTURES]
        title = f"{len(group.rows)} times the same {'file' if group.same_file else 'pixels'}"
        images = tuple(picture(row) for row in rows[:2])
        return Tile(images, (title,), tuple(check.samples[row].name for row in rows))

    largest = sorted(check.exact, key=lambda group: -len(group.rows))
    return Shelf(
        "Exact copies",
        "They count twice, and what they show is learned by heart.",
        tuple(tile(group) for group in largest[:PAIRS]),
        len(check.exact),
        wide=True,
    )


def _near(check: DataCheck, picture: Picture) -> Shelf:
    tiles: list[Tile] = []
    for first, second, alike, turn in check.near_rows():
        if len(tiles) == PAIRS:
            break
        tiles.append(
            Tile(
                (picture(first), picture(second)),
                (f"{alike:.3f} alike", TURNS[turn]),
                (check.samples[first].name, check.samples[second].name),
            )
        )
    return Shelf(
        "Near copies",
        "Saved again, resized, mirrored, turned or slightly cut; the most alike first.",
        tuple(tiles),
        len(check.near.first),
        wide=True,
    )


def _unusual(check: DataCheck, some: Unusual, picture: Picture) -> Shelf:
    rows = zip(some.rows.tolist(), some.values.tolist(), strict=True)
    return Shelf(
        some.rule.finding.capitalize(),
        f"{some.rule.what.capitalize()} {limit(some)}.",
        tuple(
            Tile((picture(row),), (f"{value:.3g}",), (check.samples[row].name,))
            for row, value in list(rows)[:TILES]
        ),
        len(some.rows),
    )


def limit(some: Unusual) -> str:
    """The rule's threshold beside the set's median, in words."""
    side = "over" if some.rule.above else "under"
    return f"{side} {some.threshold:.3g}, where the set's median is {some.median:.3g}"
