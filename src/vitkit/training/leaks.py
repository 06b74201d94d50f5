"""Images to score on that the weights a run starts from, or its teacher, have learned already."""

from collections.abc import Sequence
from pathlib import Path

from vitkit.data.audit import load_contents
from vitkit.data.split import load_split
from vitkit.errors import DataError
from vitkit.training.directory import CONTENTS, SPLIT
from vitkit.training.settings import TrainSettings


def leaks(
    settings: TrainSettings, keys: Sequence[bytes | None], splits: Sequence[str]
) -> list[str]:
    """A line for each of init and teacher that has learned what is to be scored on.

    What every image of the data contains, and the split that it is in. Of checkpoints that do not
    tell what they learned nothing is said.
    """
    lines = []
    for name, path in (("init", settings.init), ("distill.teacher", settings.distill.teacher)):
        try:
            learned = trained_on(None if path is None else Path(path))
        except DataError as error:
            lines.append(f"{name}={path} does not tell what it has learned: {error}")
            continue
        pairs = zip(keys, splits, strict=True)
        held = [key.hex() for key, split in pairs if key is not None and split in ("val", "test")]
        count = sum(key in learned for key in held) if learned else 0
        if count:
            lines.append(
                f"{name}={path} has learned {count:,} of the {len(held):,} images of val and test, "
                "so scores are too high; take its seed and data, or a folder test/"
            )
    return lines


def trained_on(origin: Path | None) -> set[str] | None:
    """Content, in hexadecimal, of what the run at `origin` or around it learned; None: unknown.

    Raises:
        DataError: the run's lists are damaged.
    """
    inside = origin.parent if origin is not None and origin.is_file() else origin
    for directory in (inside, inside.parent) if inside is not None else ():
        if (directory / SPLIT).is_file() and (directory / CONTENTS).is_file():
            contents = load_contents(directory / CONTENTS)
            rows = load_split(directory / SPLIT)
            return {contents.get(row.name, "") for row in rows if row.split == "train"} - {""}
    return None
