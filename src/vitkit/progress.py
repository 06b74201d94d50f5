"""The one word that long work says about itself; `cli` turns it into a bar."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a phase of work has come."""

    phase: str  # such as "read", "epoch 3/30", "evaluate"
    done: int
    total: int
    figures: Mapping[str, str] = field(default_factory=dict)  # such as {"loss": "0.412"}
    final: bool = False  # the result of a phase, worth a line that stays


Listener = Callable[[Progress], None]
CAUTION = "caution"  # the phase of what is likely to fail


class LikelyToFail(UserWarning):
    """Settings that can be computed but are known to end badly."""


def note(text: str) -> Progress:
    """Something that a person should know, as a line that stays."""
    return Progress("note", 0, 0, {"": text}, final=True)


def caution(text: str) -> Progress:
    """Something that is likely to fail, as a line that stays."""
    return Progress(CAUTION, 0, 0, {"": text}, final=True)


def silent(progress: Progress) -> None:
    """The listener that says nothing."""


def cautious(progress: Progress) -> None:
    """The listener that says only what is likely to fail, as one of Python's warnings."""
    if progress.phase == CAUTION:
        warnings.warn("".join(progress.figures.values()), LikelyToFail, stacklevel=2)
