"""Images to try a model with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitkit.data.sources import Source, open_inputs, open_source
from vitkit.data.split import load_split
from vitkit.errors import DataError, ImageError
from vitkit.explain.picture import png
from vitkit.training.directory import SPLIT
from vitkit.training.environment import read_environment

COUNT = 8
SIDE = 1024  # pixels of the longer side, at most: a page loads all of them


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, as a PNG."""

    name: str
    label: str  # empty where it is not known
    picture: bytes


def samples_of(data: str, count: int = COUNT) -> list[Sample]:
    """A few images of DATA, or of a folder, a zip or a file without classes.

    Raises:
        DataError: nothing that can be read.
    """
    try:
        source = open_source(data)
    except DataError:
        source = open_inputs([data])
    return choose_samples(source, count)


def samples_of_run(checkpoint: Path, count: int = COUNT) -> list[Sample]:
    """A few images that a run did not learn from; none of what is no run.

    Raises:
        DataError: its data are not there any more, or not to be found from here.
    """
    if not (checkpoint / SPLIT).is_file():
        return []
    data = read_environment(checkpoint)["data"]
    try:
        splits = {row.name: row.split for row in load_split(checkpoint / SPLIT)}
        source = open_source(data)
        kept = [replace(s, split=splits.get(s.name, s.split)) for s in source.samples]
        return choose_samples(replace(source, samples=tuple(kept)), count)
    except DataError:
        raise DataError(
            f"the run's images are not at {data} from here; --samples DATA gives the page some"
        ) from None


def choose_samples(source: Source, count: int = COUNT) -> list[Sample]:
    """A few images of a source: of every class in turn, those kept from training first.

    What cannot be read is passed over.

    Raises:
        DataError: nothing can be read.
    """
    chosen: list[Sample] = []
    for index in _in_turn(source):
        if len(chosen) == count:
            break
        sample = source.samples[index]
        try:
            picture = png(_bounded(source.read(index)))
        except ImageError:
            continue
        label = source.classes[sample.label] if sample.label is not None else ""
        chosen.append(Sample(PurePosixPath(sample.name).name, label, picture))
    if not chosen:
        raise DataError(f"{source.name} has no image that can be read; choose other samples")
    return sorted(chosen, key=lambda sample: sample.label)


def _in_turn(source: Source) -> Sequence[int]:
    """Every image's index: the first of each class, then the second, and so on."""
    kept_back = [sample.split in ("test", "val") for sample in source.samples]
    order = sorted(range(len(source.samples)), key=lambda i: not kept_back[i])
    seen: dict[int | None, int] = {}
    turns = []
    for index in order:
        label = source.samples[index].label
        seen[label] = seen.get(label, -1) + 1
        turns.append((seen[label], index))
    return [index for _, index in sorted(turns, key=lambda turn: turn[0])]


def _bounded(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image of (H, W, 3), made smaller where it is very large."""
    if max(image.shape[:2]) <= SIDE:
        return image
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)
