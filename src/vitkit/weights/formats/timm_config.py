"""timm's names for what our configurations say."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vitkit.errors import WeightsError
from vitkit.models import CONFIGS, FAMILIES, find_config
from vitkit.models.backbone import Config
from vitkit.models.deit import DeiTConfig
from vitkit.models.hybrid import HybridConfig
from vitkit.models.regnet import RegNetConfig
from vitkit.models.resnet import ResNetConfig
from vitkit.models.swin import SwinConfig
from vitkit.models.swinv2 import SwinV2Config
from vitkit.models.vit import ViTConfig

EVERYWHERE = {"in_channels": "in_chans", "num_classes": "num_classes"}
WINDOWED = {
    **EVERYWHERE,
    "image_size": "img_size",
    "patch_size": "patch_size",
    "dim": "embed_dim",
    "depths": "depths",
    "num_heads": "num_heads",
    "window_size": "window_size",
    "mlp_ratio": "mlp_ratio",
}
PLAIN = {
    **EVERYWHERE,
    "image_size": "img_size",
    "patch_size": "patch_size",
    "dim": "embed_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
    "class_token": "class_token",
    "registers": "reg_tokens",
    "layer_scale": "init_values",
    "qk_norm": "qk_norm",
    "fc_norm": "fc_norm",
}
ARGUMENTS: dict[type[Config], dict[str, str]] = {  # timm's names for fields of ours
    ViTConfig: PLAIN,
    DeiTConfig: PLAIN,
    HybridConfig: {key: name for key, name in PLAIN.items() if key != "patch_size"},  # of pixels
    SwinConfig: WINDOWED,
    SwinV2Config: WINDOWED | {"pretrained_window_sizes": "pretrained_window_sizes"},
    ResNetConfig: EVERYWHERE,
    RegNetConfig: EVERYWHERE,
}
POOLS = {"cls": "token", "mean": "avg", "attention": "map"}
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
FIRST_CONVOLUTIONS = {
    ResNetConfig: "conv1",
    RegNetConfig: "stem.conv",
    HybridConfig: "patch_embed.backbone.stem.conv",
}
TRAINING_ONLY = {"dropout", "attention_dropout", "drop_path"}  # no part of what is computed later
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
IGNORED_ARGUMENTS = (
    "pretrained_cfg",
    "dynamic_img_size",
    "strict_img_size",
    "drop_rate",
    "drop_path_rate",
    "proj_drop_rate",
    "attn_drop_rate",
)
MOST_EPS = 1e-5  # up to which the eps of a norm is lost in the rounding of what it is added to


def model_args(architecture: str, config: Config) -> dict[str, Any]:
    """Arguments with which `timm.create_model(architecture, ...)` builds the same model.

    Raises:
        WeightsError: timm has no argument for a setting of ours.
    """
    arguments: dict[str, Any] = {}
    changed = changes(architecture, config)
    names = ARGUMENTS.get(type(config), {})
    for key, value in changed.items():
        if key in names:
            arguments[names[key]] = value
        elif key == "pool":
            if value not in POOLS:
                raise WeightsError(f"timm's {architecture} has no argument for pool={value!r}")
            arguments["global_pool"] = POOLS[value]
        elif key == "position":  # timm reads our fixed tables as if they had been learned
            arguments["pos_embed"] = "none" if value == "none" else "learn"
        elif key == "prefix_positions":
            arguments["no_embed_class"] = not value
        elif key == "activation":
            arguments["act_layer"] = ACTIVATIONS[value]
        elif key == "image_size" or (key == "norm_eps" and value <= MOST_EPS):
            continue  # convolutions take any size
        elif key not in TRAINING_ONLY:
            raise WeightsError(f"timm's {architecture} has no argument for {key}={value!r}")
    _check_followed(architecture, config, changed)
    return arguments


def _check_followed(architecture: str, config: Config, changed: Mapping[str, Any]) -> None:
    """Refuse what timm has arguments for, but would compute in another way."""
    refused: Mapping[str, Any] = {}
    stem = isinstance(config, ViTConfig) and config.stem
    other = isinstance(config, HybridConfig) and config.backbone != "bit"
    if type(config) not in ARGUMENTS or stem or other:
        raise WeightsError(f"timm has no {architecture}")
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


def read_config(cfg: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture and the changed fields of ours that a `config.json` of timm's describes.

    Raises:
        ConfigError: a model that we do not have.
        WeightsError: an argument that means nothing to us.
    """
    architecture = str(cfg["architecture"]).partition(".")[0]
    family = type(find_config(architecture))
    names = {theirs: ours for ours, theirs in ARGUMENTS.get(family, {}).items()}
    pools = {theirs: ours for ours, theirs in POOLS.items()}
    fields: dict[str, Any] = {}
    arguments = dict(cfg.get("model_args") or {})
    if "global_pool" in cfg and issubclass(family, ViTConfig):
        arguments.setdefault("global_pool", cfg["global_pool"])
    for key, value in arguments.items():
        if key in names:
            fields[names[key]] = value
        elif key == "global_pool":
            fields["pool"] = pools.get(value, value)
        elif key == "no_embed_class":
            fields["prefix_positions"] = not value
        elif key == "act_layer":
            fields["activation"] = {v: k for k, v in ACTIVATIONS.items()}.get(value, value)
        elif key == "pos_embed" and value in ("learn", "none"):
            fields["position"] = "learned" if value == "learn" else "none"
        elif key not in IGNORED_ARGUMENTS:
            raise WeightsError(f"timm's argument {key}={value!r} means nothing to {architecture}")
    return architecture, fields


def structure(config: Config) -> dict[str, Any]:
    """Which modules timm calls the first convolution and the classifier; is the size fixed?"""
    classifier: Any = FAMILIES[type(config)].classifier
    first = FIRST_CONVOLUTIONS.get(type(config), "patch_embed.proj")
    if isinstance(config, HybridConfig) and not config.depths:  # the stem stands alone
        first = "patch_embed.backbone.conv"
    return {
        "fixed_input_size": not isinstance(config, ResNetConfig | RegNetConfig),
        "first_conv": first,
        "classifier": ["head", "head_dist"] if isinstance(config, DeiTConfig) else classifier,
    }


def published_preprocess(architecture: str) -> dict[str, Any]:
    """timm's `pretrained_cfg` keys for the weights that were published of a variant."""
    config = CONFIGS[architecture]
    # The others were trained with ImageNet's statistics.
    others = architecture.endswith(("dinov2", "resnet50_224"))
    augreg = architecture.startswith("vit_") and not others
    convolutional = isinstance(config, ResNetConfig | RegNetConfig)
    small = 32 < config.image_size[0] <= 256
    return {
        "input_size": [config.in_channels, *config.image_size],
        "crop_pct": 0.95 if convolutional else 0.9 if small else 1.0,
        "interpolation": "bicubic",
        **(HALF if augreg else IMAGENET),
    }
