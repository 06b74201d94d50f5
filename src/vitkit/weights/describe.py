"""What a checkpoint says of itself in `config.json`: ours, timm's or Hugging Face's."""

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitkit.errors import CheckpointError, ConfigError, WeightsError
from vitkit.models import find_config
from vitkit.models.backbone import Config
from vitkit.weights.formats import huggingface_config, huggingface_preprocess, timm_config

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is known of a checkpoint before its tensors are read."""

    source: str | None = None  # whose description it is
    architecture: str | None = None  # a name from `list_models`
    family: type[Config] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of our configuration
    classes: tuple[str, ...] = ()
    preprocess: Mapping[str, Any] | None = None  # timm's `pretrained_cfg` keys
    temperature: float = 1.0  # that logits are divided by before the softmax


def describe_directory(path: Path) -> Told:
    """What the `config.json` of a directory says.

    Raises:
        CheckpointError: there is none, or it cannot be understood.
    """
    where = path / CONFIG
    if not where.is_file():
        raise CheckpointError(
            f"{path} holds no {CONFIG}; give a run or checkpoint directory, or a weights file"
        )
    try:
        cfg = json.loads(where.read_text("utf-8"))
        if "vitkit" in cfg:
            return _ours(cfg)
        if "model_type" in cfg:
            return _huggingface(cfg, path)
        return _timm(cfg)
    except (
        OSError,
        ValueError,
        LookupError,
        ArithmeticError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        known = isinstance(error, ConfigError | WeightsError)
        kind = "" if known else f"{type(error).__name__}: "
        raise CheckpointError(f"{where} describes no vitkit model: {kind}{error}") from None


def _ours(cfg: Mapping[str, Any]) -> Told:
    architecture = str(cfg["vitkit"]["architecture"]).partition(".")[0]
    settings = {**cfg["vitkit"]["model"], "num_classes": cfg["num_classes"]}
    config = find_config(architecture, **settings)  # refuses what is not right
    return Told(
        source="vitkit",
        architecture=architecture,
        family=type(config),
        settings=settings,
        classes=_class_names(cfg["label_names"], config.num_classes),
        preprocess=dict(cfg["pretrained_cfg"]),
        temperature=_temperature(cfg["vitkit"].get("temperature", 1.0)),
    )


def _temperature(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"temperature={reprlib.repr(value)} is no number")
    if not 0 < value < math.inf:  # nan neither
        raise ConfigError(f"temperature={value} is not above 0 and finite")
    return float(value)


def _class_names(names: Any, count: int) -> tuple[str, ...]:
    if not isinstance(names, list) or len(names) != count:
        raise ConfigError(f"label_names={reprlib.repr(names)} is no list of {count} names")
    return tuple(map(str, names))


def _timm(cfg: Mapping[str, Any]) -> Told:
    architecture, settings = timm_config.read_config(cfg)
    config = find_config(architecture, **settings)  # refuses what is not right
    preprocess = {**timm_config.published_preprocess(architecture), **cfg["pretrained_cfg"]}
    return Told(
        source="timm",
        architecture=architecture,
        family=type(config),
        settings=settings,
        classes=tuple(map(str, cfg.get("label_names") or ())),
        preprocess=preprocess,
    )


def _huggingface(cfg: Mapping[str, Any], path: Path) -> Told:
    family, settings = huggingface_config.read_config(cfg)
    preprocess = None
    if (path / PREPROCESSOR).is_file():
        theirs = json.loads((path / PREPROCESSOR).read_text("utf-8"))
        size = settings.get("image_size", (224, 224))
        preprocess = huggingface_preprocess.read_preprocess(theirs, size)
    return Told(
        source="huggingface",
        family=family,
        settings=settings,
        classes=huggingface_config.class_names(cfg),
        preprocess=preprocess,
    )
