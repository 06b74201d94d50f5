"""What a study is: arms that differ in one thing, a claim about them, and how it is judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitkit.study.outcome import Outcome
from vitkit.study.results import Results

TEACHER = "teacher"  # the name of the arm that others may learn from


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One of the things compared: settings of an ordinary training run."""

    name: str  # of its directories
    title: str  # in tables and charts
    settings: Mapping[str, Any] = field(default_factory=dict)  # by their dotted keys
    taught: bool = False  # learns from the study's teacher
    group: str = ""  # the line that it is a point of, where arms differ by a number
    at: float | None = None  # that number


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A published claim and the arms that put it to the test.

    Arms share `common`, their data, splits, seeds and length, and differ in their own settings. A
    `teacher` is trained before them, with its own settings alone.
    """

    name: str
    question: str
    claim: str  # as published, in our words
    source: str  # paper and place
    common: Mapping[str, Any]
    arms: tuple[Arm, ...]
    outcome: Callable[[Results], Outcome]
    teacher: Arm | None = None
    axis: str = ""  # what the arms' `at` is, in words
    epochs: int = 20  # where neither these nor minutes are given

    @property
    def trained(self) -> tuple[Arm, ...]:
        """Everything that is trained, in this order."""
        return (*((self.teacher,) if self.teacher else ()), *self.arms)

    @property
    def compared(self) -> set[str]:
        """The settings that arms differ in."""
        return {key for arm in self.arms for key in arm.settings}

    def to_json(self) -> dict[str, Any]:
        """What a resumed study must find again."""
        arms = {arm.name: dict(arm.settings) for arm in self.trained}
        return {"common": dict(self.common), "arms": arms}
