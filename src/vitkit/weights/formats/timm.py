"""timm's names for what our configurations say."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vitkit.errors import WeightsError
from vitkit.models import CONFIGS
from vitkit.models.backbone import Config
from vitkit.models.deit import DeiTConfig
from vitkit.models.swin import SwinConfig
from vitkit.models.vit import ViTConfig

ARGUMENTS = {
    "image_size": "img_size",
    "patch_size": "patch_size",
    "dim": "embed_dim",
    "depth": "depth",
    "depths": "depths",
    "num_heads": "num_heads",
    "window_size": "window_size",
    "mlp_ratio": "mlp_ratio",
    "in_channels": "in_chans",
    "num_classes": "num_classes",
    "class_token": "class_token",
    "registers": "reg_tokens",
    "layer_scale": "init_values",
    "qk_norm": "qk_norm",
}
POOLS = {"cls": "token", "mean": "avg", "attention": "map"}
TRAINING_ONLY = {"dropout", "attention_dropout", "drop_path"}  # no part of what is computed later


def model_args(architecture: str, config: Config) -> dict[str, Any]:
    """Arguments with which `timm.create_model(architecture, ...)` builds the same model.

    Raises:
        WeightsError: timm has no argument for a setting of ours.
    """
    arguments: dict[str, Any] = {}
    changed = changes(architecture, config)
    for key, value in changed.items():
        if key in ARGUMENTS:
            arguments[ARGUMENTS[key]] = value
        elif key == "pool":
            arguments["global_pool"] = POOLS[value]
        elif key == "position":  # timm reads our fixed tables as if they had been learned
            arguments["pos_embed"] = "none" if value == "none" else "learn"
        elif key == "prefix_positions":
            arguments["no_embed_class"] = not value
        elif key not in TRAINING_ONLY:
            raise WeightsError(f"timm's {architecture} has no argument for {key}={value!r}")
    _check_followed(architecture, config, changed)
    return arguments


def _check_followed(architecture: str, config: Config, changed: Mapping[str, Any]) -> None:
    """Refuse what timm has arguments for, but would compute in another way."""
    refused: Mapping[str, Any] = {}
    if isinstance(config, DeiTConfig):
        refused = {key: changed[key] for key in ("registers", "prefix_positions") if key in changed}
        if config.position == "none":
            refused = {**refused, "position": "none"}
    elif isinstance(config, SwinConfig) and any(n % config.patch_size for n in config.image_size):
        refused = {"image_size": config.image_size}  # timm leaves the rest of a patch out, we pad
    if refused:
        settings = ", ".join(f"{key}={value!r}" for key, value in refused.items())
        raise WeightsError(f"timm's {architecture} cannot follow {settings}")


def changes(architecture: str, config: Config) -> dict[str, Any]:
    """The fields in which a configuration differs from its published variant."""
    published = CONFIGS[architecture]
    pairs = ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    return {name: value for name, value in pairs if value != getattr(published, name)}


def head_names(architecture: str, config: Config) -> dict[str, Any]:
    """Which modules timm calls the first convolution and the classifier."""
    plain = "head" if isinstance(config, ViTConfig) else "head.fc"
    classifier = ["head", "head_dist"] if "distilled" in architecture else plain
    return {"first_conv": "patch_embed.proj", "classifier": classifier}


def published_preprocess(architecture: str) -> dict[str, Any]:
    """timm's `pretrained_cfg` keys for the weights that were published of a variant."""
    config = CONFIGS[architecture]
    augreg = architecture.startswith("vit_")  # the others were trained with ImageNet's statistics
    return {
        "input_size": [config.in_channels, *config.image_size],
        "crop_pct": 0.9 if config.image_size == (224, 224) else 1.0,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5] if augreg else [0.485, 0.456, 0.406],
        "std": [0.5, 0.5, 0.5] if augreg else [0.229, 0.224, 0.225],
    }
