"""Every model by its published name."""

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any

from vitkit.errors import ConfigError, nearest
from vitkit.models import cct, check, convnet, deit, hybrid, regnet, resnet, swin, swinv2, vit
from vitkit.models.backbone import Backbone, Config

CONFIGS: dict[str, Config] = {
    **vit.CONFIGS,
    **deit.CONFIGS,
    **hybrid.CONFIGS,
    **cct.CONFIGS,
    **swin.CONFIGS,
    **swinv2.CONFIGS,
    **resnet.CONFIGS,
    **regnet.CONFIGS,
    **convnet.CONFIGS,
}
FAMILIES: dict[type[Config], type[Backbone]] = {
    vit.ViTConfig: vit.ViT,
    deit.DeiTConfig: deit.DeiT,
    hybrid.HybridConfig: hybrid.Hybrid,
    cct.CCTConfig: cct.CCT,
    swin.SwinConfig: swin.Swin,
    swinv2.SwinV2Config: swinv2.SwinV2,
    resnet.ResNetConfig: resnet.ResNet,
    regnet.RegNetConfig: regnet.RegNet,
    convnet.ConvNetConfig: convnet.ConvNet,
}
SOURCES = {  # the papers, by patterns of names; the first that matches counts
    "*_dinov2": "arXiv:2304.07193",
    "deit3_*": "arXiv:2204.07118",
    "deit_*": "arXiv:2012.12877",
    "swin_*": "arXiv:2103.14030",
    "swinv2_*": "arXiv:2111.09883",
    "resnet*": "arXiv:1512.03385",
    "regnety_*": "arXiv:2003.13678",
    "convnet_*": "textbook",
    "cct_*": "arXiv:2104.05704",
    "vitc_*": "arXiv:2106.14881",
    "vit_*": "arXiv:2010.11929",
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, such as `swin*`, in alphabetical order."""
    return sorted(fnmatch.filter(CONFIGS, pattern))


def find_config(name: str, /, **overrides: Any) -> Config:
    """The configuration of a published name with some fields replaced.

    A tag after a dot names weights, not an architecture, and is ignored: `vit_base_patch8_224.mae`.
    Lists stand for tuples, and one `image_size` for a square.

    Raises:
        ConfigError: no such name or field (the nearest is named), or a value that is of the wrong
            type or breaks a rule.
    """
    architecture = name.partition(".")[0]
    if architecture not in CONFIGS:
        hint = nearest(architecture, CONFIGS)
        raise ConfigError(f"no model is called {name!r}{hint}; `vitkit models` lists all")
    config = CONFIGS[architecture]
    fields = [field.name for field in dataclasses.fields(config)]
    for key in overrides:
        if key not in fields:
            hint = nearest(key, fields)
            known = ", ".join(fields)
            raise ConfigError(f"{architecture} has no setting {key!r}{hint}; it has {known}")
    return dataclasses.replace(config, **check.of_types(type(config), overrides))


def source(name: str) -> str:
    """The paper that a model is from."""
    return next(paper for names, paper in SOURCES.items() if fnmatch.fnmatchcase(name, names))


def build(config: Config) -> Backbone:
    """A model with new random weights."""
    return FAMILIES[type(config)](config)


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    image_size: int | Sequence[int] | None = None,
    in_channels: int | None = None,
    **overrides: Any,
) -> Backbone:
    """A model by name, with new random weights: (B, C, H, W) -> (B, num_classes).

    `image_size` is in pixels, one side or (height, width); it and `in_channels` default to the
    variant's own. `overrides` replace fields of the family's configuration, such as `depth=6`.

    Raises:
        ConfigError: no such name or field (the nearest is named), or a value that is of the wrong
            type or breaks a rule.
    """
    if image_size is not None:
        overrides["image_size"] = image_size
    if in_channels is not None:
        overrides["in_channels"] = in_channels
    return build(find_config(name, num_classes=num_classes, **overrides))
