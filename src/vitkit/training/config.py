"""Every setting of a run: defaults, then `key=value`, checked, with the origin of each value."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from vitkit.errors import ConfigError, nearest
from vitkit.models import find_config

DEFAULT_MODEL = "vit_tiny_patch16_224"
FOLLOWS = {  # fields of a model's config that the data decides, and from what
    "num_classes": "the classes of the data; leave it out",
    "in_channels": "the number of values in data.mean; set that",
    "image_size": "data.image_size; set that",
}

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


def _square(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


Size = Annotated[tuple[int, int], BeforeValidator(_square)]


class Section(BaseModel):
    """A frozen group of settings that knows no others, each of exactly its type.

    Only lists become tuples, as YAML has no others, and numbers of NumPy become Python's.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,  # else true would pass for 1
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(cls._plain(one) for one in value)
        return value.item() if isinstance(value, np.generic) else value


class DataSettings(Section):
    """What is read, and how it becomes a model input."""

    image_size: Size | None = None  # pixels, one side or [height, width]; resolved: never None
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0  # share that the centre crop keeps
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)
    val_fraction: Share = 0.1  # of the training images, where the data has no val split
    test_fraction: Share = 0.2  # of all images, where the data has no test split
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.01  # share that may be skipped
    max_megapixels: Positive = 50.0  # per image, from its header
    max_megabytes: Positive = 64.0  # per image file
    memory_gb: Positive | None = None  # for the decoded set; None: half of what is there
    workers: Annotated[int, Field(ge=1)] | None = None  # threads that decode; None: one per core


class AugmentSettings(Section):
    """What is done to training images at random."""

    mirror: bool = True  # left to right, half of the images
    shift: Share = 0.125  # share of the side that an image moves by at most


class TrainSettings(Section):
    """One training run."""

    model: dict[str, Any] = {"name": DEFAULT_MODEL}  # `name`; once resolved, its config's fields
    data: DataSettings = DataSettings()
    augment: AugmentSettings = AugmentSettings()
    epochs: Annotated[int, Field(ge=1)] = 30
    batch_size: Annotated[int, Field(ge=1)] = 128
    lr: Positive = 1e-3  # the highest learning rate of AdamW
    min_lr: Annotated[float, Field(ge=0)] = 1e-5  # at the end of the cosine
    warmup_epochs: Annotated[float, Field(ge=0)] = 2.0  # half of the run at most
    weight_decay: Annotated[float, Field(ge=0)] = 0.05  # decoupled; of matrices only
    betas: tuple[Share, Share] = (0.9, 0.999)
    label_smoothing: Share = 0.1
    clip_grad: Annotated[float, Field(ge=0)] = 1.0  # norm of the gradient; 0: no limit
    ema: Share = 0.999  # decay of the weight average that is evaluated; 0: none
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None  # of the CPU; None: torch's own choice
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @property
    def architecture(self) -> str:
        """The published name of the model."""
        return str(self.model["name"])

    @property
    def config_overrides(self) -> dict[str, Any]:
        """The fields of the model's configuration, but for the number of classes."""
        overrides = {key: value for key, value in self.model.items() if key != "name"}
        overrides["in_channels"] = len(self.data.mean)
        if self.data.image_size is not None:
            overrides["image_size"] = self.data.image_size
        return overrides


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One resolved value and where it comes from."""

    key: str
    value: Any
    origin: str  # "default", "saved", "command line", "argument", "demo", "model" or "this machine"

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

    def rows(self) -> list[Setting]:
        """Every setting by its dotted key, in the order of their definition."""
        flat = _flatten(self.settings.model_dump(mode="json"))
        return [Setting(key, value, self.origins.get(key, "default")) for key, value in flat]

    def to_yaml(self) -> str:
        """The settings as a file that `resolve` takes back."""
        return yaml.safe_dump(self.settings.model_dump(mode="json"), sort_keys=False)


def resolve(
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    saved: Mapping[str, Any] | None = None,
    origin: str = "command line",
) -> Resolved:
    """Defaults, or `saved` settings, with `key=value` overrides (dotted keys reach into sections).

    What is left open is filled in from the published configuration of the model: every field of it,
    and `data.image_size`.

    Raises:
        ConfigError: an unknown key, with the nearest real one, or a value that breaks a rule.
    """
    values = dict(saved or {})
    origins = {key: "saved" for key, _ in _flatten(values)}
    for key, value in parse(overrides).items():
        _put(values, key, value)
        origins[key] = origin
    model = values.pop("model", {})
    try:
        settings = TrainSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None
    settings = _with_model(settings, model)
    default = dict(_flatten(_defaults(settings.architecture).model_dump(mode="json")))
    now = dict(_flatten(settings.model_dump(mode="json")))
    known = {key: of for key, of in origins.items() if of != "saved" or now[key] != default[key]}
    return Resolved(settings, {"data.image_size": "model", **known})


def known_keys() -> list[str]:
    """Every dotted key with a default; `model.*` takes the fields of the model's config too."""
    return [key for key, _ in _flatten(TrainSettings().model_dump())]


def parse(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Values by their dotted keys; of a key that comes twice the last.

    Raises:
        ConfigError: text that is no `key=value`.
    """
    return dict(overrides if isinstance(overrides, Mapping) else map(_parse, overrides))


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
    if isinstance(value, str):  # YAML 1.1 takes 1e-3 for a word
        with contextlib.suppress(ValueError):
            value = float(value)
    return key.strip(), value


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
    in_section = [name for name in known if name.endswith(f".{key}")]
    hint = f", did you mean {in_section[0]!r}?" if in_section else nearest(key, known)
    remedy = hint or "; `vitkit train DATA --dry-run` lists all"
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


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    rule = first["msg"][0].lower() + first["msg"][1:]
    given = first["input"]
    return f"{key}={list(given) if isinstance(given, tuple) else given!r}: {rule}"
