"""Which model some tensors are of: as their checkpoint says, or as their names and shapes do."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.models import CONFIGS, build, check
from vitkit.models.backbone import Backbone, Config
from vitkit.models.cct import CCTConfig
from vitkit.models.convnet import ConvNetConfig
from vitkit.models.deit import DeiTConfig
from vitkit.models.hybrid import HybridConfig
from vitkit.models.regnet import RegNetConfig
from vitkit.models.resnet import ResNetConfig
from vitkit.models.swin import SwinConfig
from vitkit.models.swinv2 import SwinV2Config
from vitkit.models.vit import ViTConfig
from vitkit.weights.describe import Told
from vitkit.weights.layout import Layout

Tensors = Mapping[str, Tensor]
HEADS = ("head.weight", "head.fc.weight", "fc.weight")
# What models may differ in without being another one.
INCIDENTAL = ("num_classes", "in_channels", "dropout", "attention_dropout", "drop_path")


@dataclass(frozen=True, slots=True)
class Guess:
    """A model that fits some tensors, and in words what they did not tell."""

    config: Config
    notes: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """The published name whose configuration is the nearest."""
        return closest(self.config)


def recognise(tensors: Tensors, left: Tensors, layout: Layout, told: Told) -> Guess:
    """The model of tensors with our names; `left` are those of the file that have none.

    Raises:
        WeightsError: neither the description nor the tensors tell.
        ConfigError: they contradict the rules of a model.
    """
    known = {**layout.config, **told.settings}
    try:
        if told.family is None:
            return READERS[layout.families[0]](tensors, known, left)
        start = told.family() if told.architecture is None else CONFIGS[told.architecture]
        fields = {"pool": pool_of(tensors)} if told.architecture is None else {}
        config = with_fields(start, {**fields, **known, "num_classes": classes_of(tensors)})
        config = replace(config, in_channels=channels_of(tensors, config))
        if isinstance(config, ViTConfig) and "image_size" not in known:
            config = replace(config, image_size=size_of(tensors, config))
        return Guess(config)
    except WeightsError:
        raise
    except (
        ArithmeticError,
        LookupError,
        RuntimeError,
        StopIteration,
        TypeError,
        ValueError,
    ) as error:
        raise WeightsError(f"the weights do not tell which model they are of: {error}") from None


def with_fields(config: Config, fields: Mapping[str, Any]) -> Config:
    """A configuration with those of the fields replaced that it has."""
    own = {field.name for field in dataclasses.fields(config)}
    chosen = {key: value for key, value in fields.items() if key in own}
    return replace(config, **check.of_types(type(config), chosen))


def closest(config: Config) -> str:
    """The published name whose configuration differs from one in the fewest fields."""
    fields = [f.name for f in dataclasses.fields(config) if f.name not in INCIDENTAL]

    def distance(name: str) -> int:
        return sum(getattr(config, field) != getattr(CONFIGS[name], field) for field in fields)

    return min((name for name in CONFIGS if type(CONFIGS[name]) is type(config)), key=distance)


def classes_of(tensors: Tensors) -> int:
    """Classes that the head tells apart; 0 without a head."""
    heads = [tensors[name] for name in HEADS if name in tensors]
    if heads and heads[0].ndim != 2:
        raise WeightsError(f"the head has shape {tuple(heads[0].shape)}, not (classes, channels)")
    if heads and not heads[0].numel():
        raise WeightsError(f"the head has shape {tuple(heads[0].shape)}, and so no number")
    return len(heads[0]) if heads else 0


def channels_of(tensors: Tensors, config: Config) -> int:
    """Channels of the image that the first convolution takes."""
    _, first = shapes_of(config)
    return tensors[first].shape[1] if first in tensors else config.in_channels


def first_convolution(model: Backbone) -> str:
    """The name of the weight that takes the image in: (D, C, p, p)."""
    channels = model.config.in_channels
    kernels = (
        name for name, p in model.named_parameters() if p.ndim == 4 and p.shape[1] == channels
    )
    return next(kernels)


def count(tensors: Tensors, before: str) -> int:
    """How many numbers follow a beginning: 12 for `blocks.` where there is `blocks.11.norm1`."""
    tails = (name.removeprefix(before) for name in tensors if name.startswith(before))
    return 1 + max((int(t.partition(".")[0]) for t in tails if t[:1].isdigit()), default=-1)


def side_of(cells: int, what: str) -> int:
    """The side of a square grid.

    Raises:
        WeightsError: the cells make no square.
    """
    side = math.isqrt(cells)
    if side * side != cells:
        raise WeightsError(f"{what} has {cells} cells, which are no square; say its image_size")
    return side


def size_of(tensors: Tensors, config: ViTConfig) -> tuple[int, int]:
    """Pixels of the image that a position table is for: square, unless it is the model's own."""
    if "pos_embed" not in tensors:
        return config.image_size
    prefix = config.num_prefix_tokens if config.prefix_positions else 0
    cells = tensors["pos_embed"].shape[1] - prefix
    if cells == config.grid[0] * config.grid[1]:
        return config.image_size
    side = side_of(cells, "pos_embed") * config.patch_size
    return side, side


def read_vit(tensors: Tensors, known: Mapping[str, Any], left: Tensors) -> Guess:
    """A plain ViT or DeiT, or a hybrid or stem as published."""
    if any(name.startswith(("patch_embed.backbone.", "patch_embed.stem.")) for name in tensors):
        return read_published(tensors, known, left)
    notes: list[str] = []
    dim, in_channels, patch_size, _ = tensors["patch_embed.proj.weight"].shape
    class_token, distilled = "cls_token" in tensors, "dist_token" in tensors
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    family = DeiTConfig if distilled else ViTConfig
    pool = pool_of(tensors)
    fields: dict[str, Any] = {
        "dim": dim,
        "in_channels": in_channels,
        "patch_size": patch_size,
        "num_classes": classes_of(tensors),
        "depth": count(tensors, "blocks."),
        "num_heads": known.get("num_heads") or heads_of(dim, notes),
        "mlp_ratio": len(tensors["blocks.0.mlp.fc1.weight"]) / dim,
        "class_token": class_token,
        "registers": registers,
        "layer_scale": 1e-5 if "blocks.0.ls1.gamma" in tensors else None,
        "qk_norm": "blocks.0.attn.q_norm.weight" in tensors,
        "pool": pool,
        "fc_norm": None if ("fc_norm.weight" in tensors) == (pool == "mean") else pool != "mean",
        "position": "learned" if "pos_embed" in tensors else "sincos_2d",
    }
    size = known.get("image_size")
    if "pos_embed" not in tensors:
        notes.append("position=sincos_2d, as no table of positions is there")
        fields["image_size"] = size or (14 * patch_size, 14 * patch_size)
    else:
        _, rows, _ = tensors["pos_embed"].shape  # (1, P + N, D)
        prefix = class_token + distilled + registers
        fields |= grid_of(rows, prefix, patch_size, size)
        if size is None:
            sides = "x".join(map(str, fields["image_size"]))
            notes.append(f"image_size={sides}, a square; shapes tell only how many patches it has")
    return Guess(with_fields(family(), {**fields, **known}), tuple(notes))


def grid_of(
    rows: int, prefix: int, patch_size: int, size: tuple[int, int] | None
) -> dict[str, Any]:
    """What a position table's rows say: its image's size, and whether prefix tokens have rows.

    An image whose size is not known is taken to be square.

    Raises:
        WeightsError: neither with nor without prefix tokens is the grid a square.
    """
    if size is not None:
        cells = (size[0] // patch_size) * (size[1] // patch_size)
        return {"image_size": size, "prefix_positions": prefix == 0 or rows != cells}
    alone = prefix == 0 or math.isqrt(rows) ** 2 == rows  # 197 is a class token and 14 x 14
    side = side_of(rows if alone else rows - prefix, "pos_embed") * patch_size
    return {"image_size": (side, side), "prefix_positions": prefix == 0 or not alone}


def heads_of(dim: int, notes: list[str]) -> int:
    """As many heads as the published ViTs of this width have, or one for every 64 channels."""
    published = (c for c in CONFIGS.values() if isinstance(c, ViTConfig) and c.dim == dim)
    heads = next((c.num_heads for c in published), max(dim // 64, 1))
    notes.append(f"num_heads={heads} is usual for dim={dim}; shapes do not tell")
    return heads


def pool_of(tensors: Tensors) -> str:
    """How the tokens of a ViT are pooled."""
    if "attn_pool.latent" in tensors:
        return "attention"
    if "cls_token" not in tensors or "fc_norm.weight" in tensors:
        return "mean"
    head = tensors.get("head.weight")
    both = head is not None and head.shape[-1] == 2 * tensors["cls_token"].shape[-1]
    return "cls_mean" if both else "cls"


def read_swin(tensors: Tensors, known: Mapping[str, Any], left: Tensors) -> Guess:
    """Swin, or SwinV2 where attention has a learned scale."""
    notes: list[str] = []
    second = "layers.0.blocks.0.attn.logit_scale" in tensors
    family = SwinV2Config if second else SwinConfig
    dim, in_channels, patch_size, _ = tensors["patch_embed.proj.weight"].shape
    stages = range(count(tensors, "layers."))
    scale = "logit_scale" if second else "relative_position_bias_table"
    fields: dict[str, Any] = {
        "dim": dim,
        "in_channels": in_channels,
        "patch_size": patch_size,
        "num_classes": classes_of(tensors),
        "depths": tuple(count(tensors, f"layers.{i}.blocks.") for i in stages),
        "num_heads": tuple(
            max(tensors[f"layers.{i}.blocks.0.attn.{scale}"].shape[-3:][0 if second else -1], 1)
            for i in stages
        ),
        "mlp_ratio": len(tensors["layers.0.blocks.0.mlp.fc1.weight"]) / dim,
    }
    if second:
        fields["pretrained_window_sizes"] = tuple(pretrained_window(left, i) for i in stages)
    windows = list(windows_of({**tensors, **left}))
    if windows:  # it is smaller only where the map is
        fields["window_size"] = max(windows)
    near = CONFIGS[closest(with_fields(family(), {**fields, **known}))]
    if second and not windows and "window_size" not in known:
        check_unique(with_fields(family(), {**fields, **known}))
    for key in ("image_size", "window_size"):
        if key not in fields and key not in known:
            fields[key] = getattr(near, key)
            notes.append(f"{key}={fields[key]} is usual for this width; shapes do not tell")
    return Guess(with_fields(family(), {**fields, **known}), tuple(notes))


def check_unique(config: Config) -> None:
    """Refuse a SwinV2 whose tensors are those of several published ones, with other windows.

    Raises:
        WeightsError: they are.
    """
    shape = ("dim", "depths", "num_heads", "mlp_ratio", "patch_size")
    alike = [
        name
        for name, other in CONFIGS.items()
        if type(other) is type(config)
        and all(getattr(other, key) == getattr(config, key) for key in shape)
    ]
    if len(alike) > 1:
        raise WeightsError(
            f"shapes do not tell the window of a SwinV2; name it with --model: {', '.join(alike)}"
        )


def pretrained_window(left: Tensors, stage: int) -> int:
    """The window that SwinV2's offsets are scaled by, told by the table of them; 0 is its own."""
    table = left.get(f"layers.{stage}.blocks.0.attn.relative_coords_table")
    if table is None:
        return 0
    window = (table.shape[1] + 1) // 2
    largest = (8 ** float(table[0, -1, 0, 0]) - 1) / 8  # undoes arXiv:2111.09883, eq. 4
    pretrained = round((window - 1) / largest) + 1
    return 0 if pretrained == window else pretrained


def windows_of(tensors: Tensors) -> Iterator[int]:
    """Sides of windows, from every table of relative positions that there is."""
    for name, tensor in tensors.items():
        if name.endswith("relative_position_bias_table"):  # ((2 w - 1)^2, H)
            yield (math.isqrt(len(tensor)) + 1) // 2
        elif name.endswith("relative_coords_table"):  # (1, 2 w - 1, 2 w - 1, 2)
            yield (tensor.shape[1] + 1) // 2
        elif name.endswith("relative_position_index"):  # w^4 of them
            yield math.isqrt(math.isqrt(tensor.numel()))


def read_resnet(tensors: Tensors, known: Mapping[str, Any], left: Tensors) -> Guess:
    """ResNet."""
    fields = {
        "dim": len(tensors["conv1.weight"]),
        "in_channels": tensors["conv1.weight"].shape[1],
        "num_classes": classes_of(tensors),
        "depths": tuple(count(tensors, f"layer{stage}.") for stage in range(1, 5)),
        "block": "bottleneck" if "layer1.0.conv3.weight" in tensors else "basic",
    }
    return Guess(with_fields(ResNetConfig(), {**fields, **known}))


def read_published(tensors: Tensors, known: Mapping[str, Any], left: Tensors) -> Guess:
    """The published model that has the same tensors, but for its classes, channels and positions.

    Raises:
        WeightsError: there is none.
    """
    found: list[tuple[bool, Config]] = []
    for start in CONFIGS.values():
        if type(start) in READ_BY_SHAPE and not (isinstance(start, ViTConfig) and start.stem):
            continue
        config = with_fields(start, {**known, "num_classes": classes_of(tensors)})
        own, first = shapes_of(config)
        different = {n for n, t in tensors.items() if n in own and own[n] != t.shape}
        if own.keys() == tensors.keys() and different <= {first, "pos_embed"}:
            config = replace(config, in_channels=tensors[first].shape[1])
            found.append(("pos_embed" in different, config))
    if found:
        another_size, config = min(found, key=lambda pair: pair[0])
        if another_size and isinstance(config, ViTConfig) and "image_size" not in known:
            config = replace(config, image_size=size_of(tensors, config))
        return Guess(config)
    raise WeightsError("no published model has these tensors; name it with --model")


@functools.cache
def shapes_of(config: Config) -> tuple[dict[str, torch.Size], str]:
    """Names and shapes of a model's tensors, and the name of its first convolution."""
    with torch.device("meta"):
        model = build(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return shapes, first_convolution(model)


READ_BY_SHAPE = (ViTConfig, DeiTConfig, SwinConfig, SwinV2Config, ResNetConfig)
READERS: dict[type[Config], Callable[[Tensors, Mapping[str, Any], Tensors], Guess]] = {
    ViTConfig: read_vit,
    DeiTConfig: read_vit,
    HybridConfig: read_vit,
    SwinConfig: read_swin,
    SwinV2Config: read_swin,
    ResNetConfig: read_resnet,
    RegNetConfig: read_published,
    CCTConfig: read_published,
    ConvNetConfig: read_published,
}
