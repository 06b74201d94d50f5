"""Hugging Face's `config.json` and `preprocessor_config.json`, read and written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitkit.errors import WeightsError
from vitkit.models.backbone import Config
from vitkit.models.deit import DeiTConfig
from vitkit.models.regnet import CONFIGS as REGNETS
from vitkit.models.regnet import RegNetConfig
from vitkit.models.resnet import ResNetConfig
from vitkit.models.swin import SwinConfig
from vitkit.models.swinv2 import SwinV2Config
from vitkit.models.vit import ViTConfig

EVERYWHERE = {"num_channels": "in_channels"}
VIT = {
    **EVERYWHERE,
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "hidden_act": "activation",
    "layer_norm_eps": "norm_eps",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
DINOV2 = {
    **VIT,
    "mlp_ratio": "mlp_ratio",
    "layerscale_value": "layer_scale",
    "num_register_tokens": "registers",
    "drop_path_rate": "drop_path",
}
SWIN = {
    **EVERYWHERE,
    "image_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "dim",
    "depths": "depths",
    "num_heads": "num_heads",
    "window_size": "window_size",
    "mlp_ratio": "mlp_ratio",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "drop_path_rate": "drop_path",
}
RESNET = {
    **EVERYWHERE,
    "embedding_size": "dim",
    "depths": "depths",
    "layer_type": "block",
}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
WRITTEN_ACTIVATIONS = {ours: theirs for theirs, ours in ACTIVATIONS.items()}


PLAIN = {  # what makes a ViT of ours one of theirs
    "pool": "cls",
    "layer_scale": None,
    "prefix_positions": True,
    "class_token": True,
    "qk_norm": False,
    "stem": (),
}
# DINOv2's classifier reads the class token beside the mean of the patches.
SELF_SUPERVISED = {"pool": "cls_mean", "class_token": True, "qk_norm": False, "stem": ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One `model_type` of theirs."""

    family: type[Config]
    architecture: str  # the class that classifies
    fields: Mapping[str, str]  # their names for fields of ours
    ours: Mapping[str, Any]  # fields of ours that the kind decides
    defaults: Mapping[str, Any]  # fields of theirs that a file may leave out
    only: Mapping[str, Any] = field(default_factory=dict)  # what ours compute with, and no other

    def fits(self, config: Config) -> bool:
        """Whether a model of ours is of this kind."""
        return type(config) is self.family and not self.misfits(config)

    def misfits(self, config: Config) -> list[str]:
        """What keeps a model of the family from being of this kind; a pool needs a head."""
        return [
            f"{key}={getattr(config, key)}"
            for key, value in self.ours.items()
            if getattr(config, key) != value and (key != "pool" or config.num_classes)
        ]


SIZES = {"image_size": 224, "patch_size": 16, "num_channels": 3}
BASE = {**SIZES, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
SWIN_T = {
    **SIZES,
    "patch_size": 4,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "layer_norm_eps": 1e-5,
}
EPS = {"layer_norm_eps": 1e-12}
EXACT = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}
LARGER_EPS = {"layer_norm_eps": 1e-6}
KINDS = {
    "vit": Kind(
        family=ViTConfig,
        architecture="ViTForImageClassification",
        fields=VIT,
        ours={**PLAIN, "registers": 0},
        defaults={**BASE, **EPS, "intermediate_size": 3072, "hidden_act": "gelu"},
    ),
    "deit": Kind(  # by the class token alone, so that the other one is but a register
        family=ViTConfig,
        architecture="DeiTForImageClassification",
        fields=VIT,
        ours={**PLAIN, "registers": 1},
        defaults={**BASE, **EPS, "intermediate_size": 3072, "hidden_act": "gelu"},
    ),
    "deit distilled": Kind(
        family=DeiTConfig,
        architecture="DeiTForImageClassificationWithTeacher",
        fields=VIT,
        ours={**PLAIN, "registers": 0},
        defaults={**BASE, **EPS, "intermediate_size": 3072, "hidden_act": "gelu"},
    ),
    "dinov2": Kind(
        family=ViTConfig,
        architecture="Dinov2ForImageClassification",
        fields=DINOV2,
        ours={**SELF_SUPERVISED, "prefix_positions": True, "registers": 0},
        defaults={**BASE, **LARGER_EPS, "mlp_ratio": 4, "layerscale_value": 1.0},
    ),
    "dinov2_with_registers": Kind(
        family=ViTConfig,
        architecture="Dinov2WithRegistersForImageClassification",
        fields=DINOV2 | {"num_register_tokens": "registers"},
        ours={**SELF_SUPERVISED, "prefix_positions": False},
        defaults={
            **BASE,
            **LARGER_EPS,
            "mlp_ratio": 4,
            "layerscale_value": 1.0,
            "num_register_tokens": 4,
        },
    ),
    "swin": Kind(
        family=SwinConfig,
        architecture="SwinForImageClassification",
        fields=SWIN,
        ours={},
        defaults=SWIN_T,
        only=EXACT,
    ),
    "swinv2": Kind(
        family=SwinV2Config,
        architecture="Swinv2ForImageClassification",
        fields=SWIN | {"pretrained_window_sizes": "pretrained_window_sizes"},
        ours={},
        defaults=SWIN_T,
        only=EXACT,
    ),
    "resnet": Kind(
        family=ResNetConfig,
        architecture="ResNetForImageClassification",
        fields=RESNET,
        ours={},
        defaults={
            "num_channels": 3,
            "embedding_size": 64,
            "hidden_sizes": [256, 512, 1024, 2048],
            "depths": [3, 4, 6, 3],
            "layer_type": "bottleneck",
        },
        only={"hidden_act": "relu", "downsample_in_first_stage": False},
    ),
    "regnet": Kind(
        family=RegNetConfig,
        architecture="RegNetForImageClassification",
        fields=EVERYWHERE,
        ours={},
        defaults={
            "num_channels": 3,
            "embedding_size": 32,
            "hidden_sizes": [128, 192, 512, 1088],
            "depths": [2, 6, 12, 2],
            "groups_width": 64,
        },
        only={"hidden_act": "relu", "layer_type": "y"},
    ),
}
REGNET_FIELDS = ("depth", "w0", "wa", "wm", "group_width", "rounding")
REFUSED = {  # settings of theirs for which our models have no counterpart
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "use_absolute_embeddings": False,
    "downsample_in_bottleneck": False,
}


def read_config(theirs: Mapping[str, Any]) -> tuple[type[Config], dict[str, Any]]:
    """The family and the fields of our configuration that a `config.json` of theirs describes.

    Raises:
        WeightsError: a model that we do not have.
    """
    kind = _kind_of(theirs)
    values = {**kind.defaults, **theirs}
    for key, only in {**REFUSED, **kind.only}.items():
        if values.get(key, only) != only:
            raise WeightsError(f"{key}={values[key]} is a model that vitkit does not have")
    ours = {key: value for key, value in kind.ours.items() if key != "pool"}  # if there is a head
    ours |= {field: values[key] for key, field in kind.fields.items() if key in values}
    if "intermediate_size" in kind.defaults:
        ours["mlp_ratio"] = values["intermediate_size"] / values["hidden_size"]
    if "activation" in ours:
        word = ours["activation"]
        if word not in ACTIVATIONS:
            raise WeightsError(f"hidden_act={word!r} is not among {', '.join(ACTIVATIONS)}")
        ours["activation"] = ACTIVATIONS[word]
    if "pretrained_window_sizes" in ours:  # four by default, however many stages there are
        ours["pretrained_window_sizes"] = ours["pretrained_window_sizes"][: len(ours["depths"])]
    if "image_size" in ours:
        ours["image_size"] = pair(ours["image_size"])
        ours["patch_size"] = _one(ours["patch_size"])
    if kind.family is RegNetConfig:
        ours |= _regnet(values)
    if kind.family is ResNetConfig:
        _check_widths(ResNetConfig(**ours | {"depths": tuple(ours["depths"])}).dims, values)
    return kind.family, ours


def _regnet(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that make a published RegNet's widths, which are all that a file has."""
    for config in REGNETS.values():
        shape = (list(config.dims), list(config.depths), config.group_width)
        if shape == (list(values["hidden_sizes"]), list(values["depths"]), values["groups_width"]):
            return {key: getattr(config, key) for key in REGNET_FIELDS}
    raise WeightsError(f"no published RegNetY has hidden_sizes={values['hidden_sizes']}")


def _check_widths(dims: Sequence[int], values: Mapping[str, Any]) -> None:
    if list(dims) != list(values["hidden_sizes"]):
        raise WeightsError(f"hidden_sizes={values['hidden_sizes']} are not ResNet's {list(dims)}")


def _kind_of(theirs: Mapping[str, Any]) -> Kind:
    name = str(theirs["model_type"])
    if any(str(a).endswith("WithTeacher") for a in theirs.get("architectures") or ()):
        name += " distilled"
    if name not in KINDS:
        raise WeightsError(f"model_type={name!r} is not among {', '.join(KINDS)}")
    return KINDS[name]


def pair(size: Any) -> tuple[int, int]:
    """A square or a pair, as height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _one(size: Any) -> int:
    height, width = pair(size)
    if height != width:
        raise WeightsError(f"patch_size={size} is not square, as our patches are")
    return height


def class_names(theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, or none where the file has only numbers for them."""
    names = theirs.get("id2label") or {}
    listed = [str(names[key]) for key in sorted(names, key=int)]
    return () if all(name.startswith("LABEL_") for name in listed) else tuple(listed)


def kind_of(config: Config) -> str:
    """Their `model_type` for a model of ours.

    Raises:
        WeightsError: they have none.
    """
    alike = {name: kind for name, kind in KINDS.items() if kind.family is type(config)}
    for name, kind in alike.items():
        if kind.fits(config):
            return name
    what = type(config).__name__.removesuffix("Config")
    reasons = [", ".join(kind.misfits(config)) for kind in alike.values()]
    with_these = f" with {min(reasons, key=len)}" if reasons else ""
    raise WeightsError(f"transformers has no {what}{with_these}")


def write_config(config: Config, classes: Sequence[str]) -> dict[str, Any]:
    """Their `config.json` of ours.

    Raises:
        WeightsError: they have no such model.
    """
    name = kind_of(config)
    kind = KINDS[name]
    if name.startswith("dinov2") and config.image_size[0] != config.image_size[1]:
        raise WeightsError(
            f"image_size={config.image_size} is not square, as transformers takes DINOv2's to be"
        )
    theirs = {key: getattr(config, field) for key, field in kind.fields.items()}
    if "hidden_act" in theirs:
        theirs["hidden_act"] = WRITTEN_ACTIVATIONS[theirs["hidden_act"]]
    if isinstance(config, ViTConfig) and "intermediate_size" in kind.defaults:
        theirs["intermediate_size"] = int(config.dim * config.mlp_ratio)
    if name.startswith("dinov2") and isinstance(config, ViTConfig):
        if config.mlp_ratio % 1:
            raise WeightsError(f"mlp_ratio={config.mlp_ratio} is not whole, as transformers has it")
        theirs["mlp_ratio"] = int(config.mlp_ratio)
    if isinstance(config, ResNetConfig | RegNetConfig):
        theirs |= {"hidden_sizes": list(config.dims), "depths": list(config.depths)}
    if isinstance(config, RegNetConfig):
        theirs |= {"embedding_size": 32, "groups_width": config.group_width, "layer_type": "y"}
    architecture = kind.architecture
    if not config.num_classes:
        architecture = architecture.replace("ForImageClassification", "Model")
    labels = {str(i): label for i, label in enumerate(classes)}
    return {
        "architectures": [architecture],
        "model_type": name.partition(" ")[0],
        **theirs,
        "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()},
        "torch_dtype": "float32",
    }
