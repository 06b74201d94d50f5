"""What all arms of a study have in common because its user says so: data, length, seeds."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import sqrt
from pathlib import Path
from typing import Any

from vitkit.data.sources import BUILT_IN
from vitkit.errors import CheckpointError, ConfigError
from vitkit.study.design import Arm, Study
from vitkit.training.directory import FREE

OPTIONS = {  # settings that have an option of their own
    "epochs": "--epochs",
    "minutes": "--minutes",
    "seed": "--seeds",
    "distill.teacher": "the study's own teacher",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Data, length of each arm, and settings for all arms; of length one of two is given."""

    data: str = "digits"
    epochs: int | None = None
    minutes: float | None = None
    seeds: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)  # by their dotted keys

    @property
    def length(self) -> str:
        """How long each arm is trained, in words."""
        count, unit = (self.minutes, "minute") if self.minutes else (self.epochs or 0, "epoch")
        return f"{count:g} {unit}{'' if count == 1 else 's'}"

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Any) -> "Conditions":
        """What `to_json` gave.

        Raises:
            CheckpointError: something else.
        """
        try:
            return cls(**saved)
        except TypeError as error:
            raise CheckpointError(f"no conditions of a study: {error}; start a new one") from None


def make_conditions(
    study: Study,
    *,
    data: str | Path | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    saved: Conditions | None = None,
) -> Conditions:
    """Conditions from what was given, and from a study that goes on, `saved`, or its defaults.

    A study that goes on may get more seeds, and other settings that do not change results.

    Raises:
        ConfigError: a value out of range, two lengths, a setting that the study compares, or one
            that differs from the study's that goes on.
    """
    given: dict[str, Any] = {
        "data": None if data is None else _absolute(data),
        "epochs": epochs,
        "minutes": minutes,
        "seeds": seeds,
        "settings": settings or None,
    }
    _check(study, given)
    given = {name: value for name, value in given.items() if value is not None}
    if saved is not None:
        return _go_on(saved, given)
    made = Conditions(**given)
    return made if made.epochs or made.minutes else replace(made, epochs=study.epochs)


def settings_for(
    study: Study, arm: Arm, conditions: Conditions, *, seed: int, teacher: Path | None = None
) -> dict[str, Any]:
    """The settings of one run, as `plan` takes them.

    On a share s of the images an arm gets 1 / sqrt(s) times the epochs: something between as many
    epochs, which would be a hundred times fewer steps on 1 %, and as many steps.
    """
    settings = dict(arm.settings) if arm is study.teacher else {**study.common, **arm.settings}
    if conditions.data == "digits":
        settings["augment.mirror"] = False  # digits have a handedness
    if conditions.minutes:
        settings["minutes"] = float(conditions.minutes)
    else:
        share = arm.settings.get("data.fraction", 1.0)
        settings["epochs"] = round((conditions.epochs or study.epochs) / sqrt(share))
    taught = {"distill.teacher": str(teacher)} if arm.taught else {}
    given = {  # what is given of the model is that of the arms: a teacher is another one
        key: value
        for key, value in conditions.settings.items()
        if arm is not study.teacher or not key.startswith("model.")
    }
    return {**settings, **given, **taught, "seed": seed}


def _check(study: Study, given: Mapping[str, Any]) -> None:
    if given["epochs"] is not None and given["minutes"] is not None:
        raise ConfigError("epochs and minutes are both given; give the length of an arm in one")
    for name in ("epochs", "minutes", "seeds"):
        if given[name] is not None and given[name] <= 0:
            raise ConfigError(f"{name}={given[name]} must be above 0")
    for key in given["settings"] or ():
        if key in OPTIONS:
            raise ConfigError(f"{key} is not a setting of a study; use {OPTIONS[key]}")
        if key in study.compared:
            raise ConfigError(f"{key} is what {study.name} compares; leave it out")


def _go_on(saved: Conditions, given: Mapping[str, Any]) -> Conditions:
    """The conditions of a study that goes on, with what of `given` may differ."""
    settings = dict(given.get("settings", {}))
    for key, value in settings.items():
        if key not in FREE and saved.settings.get(key) != value:
            raise _differs(key, value, saved.settings.get(key, "its default"))
    for name in (one.name for one in fields(saved)):
        value, before = given.get(name), getattr(saved, name)
        if name == "settings" or value in (None, before) or (name == "seeds" and value > before):
            continue
        raise _differs(f"--{name}", value, before)
    return replace(
        saved,
        seeds=given.get("seeds", saved.seeds),
        settings={**saved.settings, **settings},
    )


def _differs(name: str, value: Any, before: Any) -> ConfigError:
    return ConfigError(
        f"{name} {value} differs from the study, which has {before}; leave it out to go on, or "
        "choose another --out"
    )


def _absolute(data: str | Path) -> str:
    """The data so that it is found from another directory too."""
    built_in = isinstance(data, str) and data.partition(":")[0] in BUILT_IN
    return str(data) if built_in or not os.path.exists(data) else os.path.abspath(data)
