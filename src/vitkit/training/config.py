"""How settings become resolved: defaults, a recipe, then `key=value`, with the origin of each."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vitkit.errors import ConfigError, nearest
from vitkit.models import find_config
from vitkit.training.recipe import dotted, number_or_word, read_recipe
from vitkit.training.settings import DEFAULT_MODEL, TrainSettings

CHECKPOINTS = ("init", "distill.teacher")  # settings that are paths, or hf-hub:owner/name
NO_RECIPE = "none"  # defaults and what is given, nothing else
AUTO = "auto"  # the origin of what vitkit chooses
RECIPE = "recipe "  # how the origin of a recipe's value begins
FOLLOWS = {  # fields of a model's config that the data decides, and from what
    "num_classes": "the classes of the data; leave it out",
    "in_channels": "the number of values in data.mean; set that",
    "image_size": "data.image_size; set that",
}
ELSEWHERE = {  # what other tools call a setting
    "learning_rate": "lr",
    "opt": "optimizer",
    "optim": "optimizer",
    "batch": "batch_size",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "warmup": "warmup_epochs",
    "imgsz": "data.image_size",
    "img_size": "data.image_size",
    "input_size": "data.image_size",
    "num_workers": "data.workers",
    "drop_path": "model.drop_path",
    "dropout": "model.dropout",
    "amp": "precision",
    "smoothing": "label_smoothing",
    "color_jitter": "augment.jitter",
    "auto_augment": "augment.policy",
    "reprob": "augment.erase",
    "grad_accum_steps": "accumulate",
    "gradient_accumulation_steps": "accumulate",
}
EXAMPLES = {
    "data.image_size": "[128,96]",
    "data.mean": "[0.5]",
    "data.std": "[0.5]",
    "betas": "[0.9,0.95]",
    "log": "[tensorboard]",
}  # of lists


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """A value, and who has chosen it."""

    value: Any
    origin: str


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One resolved value and where it comes from."""

    key: str
    value: Any
    origin: str  # "default", "recipe small", "auto", "command line", "model", "this machine", ...

    @property
    def text(self) -> str:
        """The value as it is written on a command line: `[0.5,0.5,0.5]`, `null`, `bicubic`."""
        plain = isinstance(self.value, str)
        return str(self.value) if plain else json.dumps(self.value, separators=(",", ":"))

    def __str__(self) -> str:
        return f"{self.key}={self.text}"


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """Checked settings with their origins."""

    settings: TrainSettings
    origins: Mapping[str, str]  # of the keys that are not at their default
    reasons: tuple[str, ...] = ()  # why model and recipe were chosen, where nobody said

    def rows(self) -> list[Setting]:
        """Every setting by its dotted key, in the order of their definition."""
        flat = dotted(self.settings.model_dump(mode="json"))
        return [Setting(key, value, self.origins.get(key, "default")) for key, value in flat]

    def to_yaml(self) -> str:
        """The settings as a file that `resolve` takes back."""
        return yaml.safe_dump(self.settings.model_dump(mode="json"), sort_keys=False)


def resolve(
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    recipe: str | None = None,
    chosen: Mapping[str, Choice] | None = None,
    saved: Mapping[str, Any] | None = None,
    origin: str = "command line",
) -> Resolved:
    """Defaults, or `saved` settings, then a recipe, what was `chosen`, and `key=value` overrides.

    Dotted keys reach into sections. `recipe` is the name of one or its file. What is left open is
    filled in from the published configuration of the model: every field of it, and
    `data.image_size`.

    Raises:
        ConfigError: an unknown key, with the nearest real one, or a value that breaks a rule.
    """
    values = dict(saved or {})
    origins = {key: "saved" for key, _ in dotted(values)}
    origins |= put_all(values, layers(overrides, recipe, chosen or {}, origin))
    model = values.pop("model", {})
    settings = _with_model(checked(values, origins), model)
    default = dict(dotted(_defaults(settings.architecture).model_dump(mode="json")))
    now = dict(dotted(settings.model_dump(mode="json")))
    known = {key: of for key, of in origins.items() if of != "saved" or now[key] != default[key]}
    return Resolved(settings, {"data.image_size": "model", **known})


def without_model(overrides: Mapping[str, Any]) -> TrainSettings:
    """What is settled, and checked, before there is a model.

    Raises:
        ConfigError: as `resolve`, but for the settings of the model.
    """
    values: dict[str, Any] = {}
    origins = put_all(values, layers(overrides, None, {}, ""))
    values.pop("model", None)
    return checked(values, origins)


def checked(values: Mapping[str, Any], origins: Mapping[str, str]) -> TrainSettings:
    """Settings from values in their groups; what a recipe has wrong is said to be the recipe's."""
    try:
        settings = TrainSettings.model_validate(values)
        settings.augment.crop, settings.augment.pipeline()
        settings.mix.mixer()
    except ValidationError as error:
        key, line = _one_line(error)
        raise ConfigError(f"{_whose(origins.get(key, ''))}{line}") from None
    return settings


def put_all(values: dict[str, Any], choices: Mapping[str, Choice]) -> dict[str, str]:
    """Put what was chosen into its groups; the origins of all."""
    for key, choice in choices.items():
        try:
            _put(values, key, choice.value)
        except ConfigError as error:
            raise ConfigError(f"{_whose(choice.origin)}{error}") from None
    return {key: choice.origin for key, choice in choices.items()}


def layers(
    overrides: Sequence[str] | Mapping[str, Any],
    recipe: str | None,
    chosen: Mapping[str, Choice],
    origin: str,
) -> dict[str, Choice]:
    """Every value that is no default, by its dotted key: the last that has a say, and who it is.

    A recipe's model gives way to one of another family with all of its fields.
    """
    given = {key: Choice(value, origin) for key, value in parse(overrides).items()}
    named = given.pop("recipe", Choice(recipe, AUTO))
    recipe = named.value
    if recipe in (None, NO_RECIPE):
        return {**chosen, **given}
    name, values = read_recipe(str(recipe))
    own = {key: Choice(value, f"{RECIPE}{name}") for key, value in absolute(values).items()}
    above = {**chosen, **given}
    if "model.name" in above and "model.name" in own:
        one, other = (find_config(architecture_of(d["model.name"].value)) for d in (own, above))
        if type(one) is not type(other):
            own = {key: choice for key, choice in own.items() if not key.startswith("model.")}
    return {**own, "recipe": named, **above}


def known_keys() -> list[str]:
    """Every dotted key with a default; `model.*` takes the fields of the model's config too."""
    return [key for key, _ in dotted(TrainSettings().model_dump())]


def parse(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Values by their dotted keys; of a key that comes twice the last.

    Raises:
        ConfigError: text that is no `key=value`.
    """
    return absolute(dict(overrides if isinstance(overrides, Mapping) else map(_parse, overrides)))


def absolute(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with checkpoints where a resumed run finds them too, wherever it is started."""
    paths = {
        key: os.path.abspath(values[key])
        for key in CHECKPOINTS
        if isinstance(values.get(key), str | Path) and not str(values[key]).startswith("hf-hub:")
    }
    return {**values, **paths}


def architecture_of(model: Any) -> str:
    """The name of an architecture; a tag after a dot names weights and is dropped."""
    return str(model).partition(".")[0]


def _parse(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is no setting; write key=value, such as epochs=10")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # dates that no calendar has, deep lists
        raise ConfigError(f"{key}={text!r} cannot be read as a value; quote it") from None
    return key.strip(), number_or_word(value)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by its dotted key, in copies of the groups that it lies in."""
    _check_key(key)
    *sections, name = key.split(".")
    for section in sections:
        inside = values.get(section, {})
        if not isinstance(inside, Mapping):
            raise ConfigError(f"{section}={inside!r} is a group of settings; set {key}")
        values[section] = dict(inside)
        values = values[section]
    values[name] = value


def _check_key(key: str) -> None:
    known = known_keys()
    if key in known or (key.startswith("model.") and key.count(".") == 1):
        return
    sections = {name.partition(".")[0] for name in known if "." in name}
    if key in sections:
        inside = ", ".join(name for name in known if name.startswith(f"{key}."))
        raise ConfigError(f"{key!r} is a group of settings; set one of {inside}")
    last = key.rpartition(".")[2]
    in_section = [name for name in known if name.rpartition(".")[2] == last]
    same = ELSEWHERE.get(last.lower()) or next(iter(in_section), None)
    hint = f", did you mean {same!r}?" if same else nearest(key, known)
    remedy = hint or "; `vitkit settings` lists all, and --dry-run those of the model"
    raise ConfigError(f"no setting is called {key!r}{remedy}")


def _with_model(settings: TrainSettings, values: Any) -> TrainSettings:
    """The settings with the model's name and every field of its config, the size of images too."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"model={values!r} is a group of settings; set model.name")
    given = {str(key): value for key, value in values.items()}
    name = architecture_of(given.pop("name", DEFAULT_MODEL))
    for key in given:
        if key in FOLLOWS:
            raise ConfigError(f"model.{key} follows from {FOLLOWS[key]}")
    size = settings.data.image_size
    config = find_config(name, **given, **({} if size is None else {"image_size": size}))
    fields = [field.name for field in dataclasses.fields(config) if field.name not in FOLLOWS]
    model = {"name": name, **{field: getattr(config, field) for field in fields}}
    data = settings.data.model_copy(update={"image_size": config.image_size})
    return settings.model_copy(update={"model": model, "data": data})


def _defaults(architecture: str) -> TrainSettings:
    return _with_model(TrainSettings(), {"name": architecture})


def _whose(origin: str) -> str:
    """The beginning of a message about a value: the recipe that it comes from, if it does."""
    return f"{origin}: " if origin.startswith(RECIPE) else ""


def _one_line(error: ValidationError) -> tuple[str, str]:
    """The key of the first mistake, and what to say of it."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    rule = first["msg"][0].lower() + first["msg"][1:]
    given = first["input"]
    if first["type"] == "tuple_type":
        rule = f"write a list, such as {key}={EXAMPLES.get(key, '[0.5,1.0]')}"
    return key, f"{key}={list(given) if isinstance(given, tuple) else given!r}: {rule}"
