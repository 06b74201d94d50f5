"""A study as far as it has come: conditions, results and outcome, kept in `study.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit import whole_file
from vitkit.errors import CheckpointError
from vitkit.study.conditions import Conditions
from vitkit.study.design import Arm, Study
from vitkit.study.outcome import Outcome
from vitkit.study.results import Result, Results
from vitkit.training.directory import CONFIG

RECORD = "study.json"


@dataclass(frozen=True, slots=True)
class Record:
    """A study as far as it has come."""

    directory: Path
    study: Study
    conditions: Conditions
    results: Results  # of the arms with a finished run, the teacher's too

    @property
    def finished(self) -> bool:
        """Whether every arm has a run for every seed."""
        runs = {name: len(result.runs) for name, result in self.results.items()}
        return all(runs.get(arm.name) == self.conditions.seeds for arm in self.study.trained)

    @property
    def outcome(self) -> Outcome | None:
        """What became of the claim; None before the study is finished."""
        return self.study.outcome(self.results) if self.finished else None

    @property
    def arms(self) -> list[tuple[Arm, Result]]:
        """The arms that have results, without the teacher."""
        return [(a, self.results[a.name]) for a in self.study.arms if a.name in self.results]

    @property
    def teacher(self) -> tuple[Arm, Result] | None:
        """The teacher with its results, if the study has one that is trained."""
        arm = self.study.teacher
        return (arm, self.results[arm.name]) if arm and arm.name in self.results else None

    def to_json(self) -> dict[str, Any]:
        """What `study.json` holds; fractions are in [0, 1], times in seconds."""
        outcome, teacher = self.outcome, self.teacher
        return {
            "study": self.study.name,
            "question": self.study.question,
            "claim": self.study.claim,
            "source": self.study.source,
            "directory": str(self.directory),
            "conditions": self.conditions.to_json(),
            "design": self.study.to_json(),
            "finished": self.finished,
            "outcome": None if outcome is None else outcome.to_json(),
            "teacher": None if teacher is None else _entry(*teacher),
            "arms": [_entry(arm, result) for arm, result in self.arms],
        }


def _entry(arm: Arm, result: Result) -> dict[str, Any]:
    return {"name": arm.name, "title": arm.title, **result.to_json()}


def write_record(record: Record) -> None:
    """Keep a study's state in its directory."""
    text = json.dumps(record.to_json(), indent=2)
    whole_file.write(record.directory / RECORD, text + "\n")


def read_conditions(directory: Path, study: Study) -> Conditions:
    """The conditions of the study in a directory, after a check that it is this one.

    Raises:
        CheckpointError: there is none, it is damaged, another one, or has been declared anew since.
    """
    path = directory / RECORD
    try:
        saved: Any = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        remedy = "leave --resume out to start one"
        raise CheckpointError(f"{directory} holds no study; {remedy}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; start a new study") from None
    if not isinstance(saved, Mapping) or saved.get("study") != study.name:
        other = saved.get("study") if isinstance(saved, Mapping) else None
        raise CheckpointError(f"{directory} holds the study {other!r}; choose another --out")
    if saved.get("design") != json.loads(json.dumps(study.to_json())):
        raise CheckpointError(
            f"{directory} was begun with other settings than {study.name} now has; start a new one"
        )
    return Conditions.from_json(saved.get("conditions"))


def check_new(directory: Path) -> None:
    """Check that a study may begin in a directory: none, an empty one, or where no run began.

    Raises:
        CheckpointError: something else is there.
    """
    if not directory.exists():
        return
    has_record = (directory / RECORD).is_file()
    if has_record and not any(directory.glob(f"*/{CONFIG}")):
        return
    if has_record or not directory.is_dir() or any(directory.iterdir()):
        more = ", or go on with --resume" if has_record else ""
        raise CheckpointError(f"{directory} exists already; choose another --out{more}")
