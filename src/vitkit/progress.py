"""The one word that long work says about itself; `cli` turns it into a bar."""

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


def note(text: str) -> Progress:
    """Something that a person should know, as a line that stays."""
    return Progress("note", 0, 0, {"": text}, final=True)


def silent(progress: Progress) -> None:
    """The listener that says nothing."""
