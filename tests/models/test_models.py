import dataclasses
import fnmatch
import re
from typing import Any

import numpy as np
import pytest
import timm
import torch

from vitkit.errors import ConfigError
from vitkit.models import (
    CONFIGS,
    FAMILIES,
    build,
    cct,
    convnet,
    create_model,
    deit,
    find_config,
    hybrid,
    list_models,
    nearest,
    regnet,
    resnet,
    source,
    swin,
    swinv2,
    vit,
)

TINY_VIT = {"image_size": (32, 48), "patch_size": 8, "dim": 32, "depth": 1, "num_heads": 2}
TINY_SWIN = {"image_size": (32, 48), "dim": 16, "depths": (1, 1), "num_heads": (1, 2)}


TINY_CCT = {"image_size": (32, 48), "dim": 32, "depth": 1, "num_heads": 2, "conv_layers": 2}
TINY_HYBRID = {
    "bit": TINY_VIT | {"depths": (1,)},
    "resnet": TINY_VIT | {"depths": (1, 1, 1, 1), "patch_size": 32, "image_size": (32, 64)},
}
TINY_RESNET = {"image_size": (32, 48), "dim": 8, "depths": (1, 1, 1, 1)}
TINY_REGNET = {
    "image_size": (32, 48), "depth": 4, "w0": 8, "wa": 13.6, "wm": 2.0, "group_width": 8
}  # fmt: skip
NOT_OF_TIMM = ("cct_*", "vitc_*", "convnet_*", "vit_base_resnet50_224")


def tiny(name: str) -> dict[str, Any]:
    """Overrides that make any published model small."""
    match CONFIGS[name]:
        case swinv2.SwinV2Config():
            return TINY_SWIN | {"pretrained_window_sizes": (0, 4)}
        case swin.SwinConfig():
            return TINY_SWIN
        case hybrid.HybridConfig(backbone=backbone):
            return TINY_HYBRID[backbone]
        case cct.CCTConfig():
            return TINY_CCT
        case resnet.ResNetConfig():
            return TINY_RESNET
        case regnet.RegNetConfig():
            return TINY_REGNET
        case convnet.ConvNetConfig():
            return {"image_size": (32, 48), "dims": (8, 16)}
        case vit.ViTConfig(stem=stem) if stem:
            return TINY_VIT | {"stem": (8, 16)}
    return TINY_VIT


def test_every_name_is_listed_once() -> None:
    families = (
        vit.CONFIGS,
        deit.CONFIGS,
        hybrid.CONFIGS,
        cct.CONFIGS,
        swin.CONFIGS,
        swinv2.CONFIGS,
        resnet.CONFIGS,
        regnet.CONFIGS,
        convnet.CONFIGS,
    )
    assert len(CONFIGS) == sum(map(len, families))  # no name hides another
    assert list_models() == sorted(CONFIGS)
    assert {source(name) for name in CONFIGS if not source(name).startswith("arXiv:")} == {
        "textbook"
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_names_are_timms(name: str) -> None:
    ours = any(fnmatch.fnmatch(name, pattern) for pattern in NOT_OF_TIMM)
    assert timm.is_model(name) != ours


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("deit_tiny*", ["deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224"]),
        ("vit_*_patch8_???", ["vit_base_patch8_224"]),
        ("vit_base_patch8_224", ["vit_base_patch8_224"]),
        ("nothing*", []),
    ],
)
def test_list_models_takes_a_shell_pattern(pattern: str, names: list[str]) -> None:
    assert list_models(pattern) == names


@pytest.mark.parametrize("name", CONFIGS)
def test_every_model_runs_at_tiny_size(name: str) -> None:
    model = create_model(name, num_classes=5, in_channels=2, **tiny(name))
    assert type(model) is FAMILIES[type(CONFIGS[name])]
    x = torch.randn(2, 2, 32, 48)
    assert model(x).shape == (2, 5)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (
        2,
        model.num_features,
    )
    assert model.num_classes == model.config.num_classes == 5
    assert model.config == find_config(name, num_classes=5, in_channels=2, **tiny(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_stands_in_a_layer(name: str) -> None:
    """Blocks one by one, from the embedding to the heads; timm's are in training/test_optim.py."""
    with torch.device("meta"):
        model = create_model(name, **tiny(name))
    layers = model.layer_of_parameters()
    assert set(layers) == set(dict(model.named_parameters()))
    blocks = {f"{m}." for m, _ in model.named_modules() if re.fullmatch(model.block, m)}
    assert set(layers.values()) == set(range(len(blocks) + 2))
    inside = {one: {layers[p] for p in layers if p.startswith(one)} for one in blocks}
    assert sorted(*zip(*inside.values(), strict=True)) == list(range(1, len(blocks) + 1))
    for parameter in layers:
        if parameter.startswith(model.classifiers):
            assert layers[parameter] == len(blocks) + 1
        elif parameter.startswith(("patch_embed.", "tokenizer.", "stem.", "conv1.", "pos_embed")):
            assert layers[parameter] == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_defaults_are_the_published_ones(name: str) -> None:
    config = find_config(name)
    assert config is CONFIGS[name] or config == CONFIGS[name]
    assert (config.num_classes, config.in_channels) == (1000, 3)
    sized = timm.get_pretrained_cfg(name).input_size if timm.is_model(name) else None
    side = sized[1] if sized else int(re.findall(r"\d+", name)[-1])
    assert config.image_size == (side, side)


@pytest.mark.parametrize("name", ["vit_base_patch8_224.mae", "vit_base_patch8_224.a.b"])
def test_a_tag_names_weights_not_an_architecture(name: str) -> None:
    assert find_config(name) == CONFIGS["vit_base_patch8_224"]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_overrides(name: str) -> None:
    config = find_config(name, dropout=0.25, num_classes=3)
    assert config == dataclasses.replace(CONFIGS[name], dropout=0.25, num_classes=3)
    assert CONFIGS[name].num_classes == 1000  # the table is not touched


@pytest.mark.parametrize(
    ("given", "size"), [(32, (32, 32)), ((32, 48), (32, 48)), (None, (224,) * 2)]
)
def test_image_size_is_a_side_or_a_pair(given: Any, size: tuple[int, int]) -> None:
    model = create_model("vit_tiny_patch16_224", depth=1, image_size=given)
    assert model.config.image_size == size


def test_types_as_json_and_numpy_have_them() -> None:
    """The result equals the variant's own, tuples and all."""
    name = "swin_tiny_patch4_window7_224"
    given = find_config(
        name,
        image_size=[224, 224],
        depths=[2, 2, 6, 2],
        num_heads=[3, np.int64(6), 12, 24],
        dim=np.int32(96),
        dropout=0,
    )
    assert given == CONFIGS[name] and hash(given) == hash(CONFIGS[name])
    assert type(given.dim) is int and type(given.dropout) is float
    assert find_config(name, image_size=224) == CONFIGS[name]
    assert find_config(name, image_size=torch.zeros(224, 224).shape) == CONFIGS[name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 16.5}, "dim=16.5: input should be a valid integer"),
        ({"dim": 16.0}, "dim=16.0: input should be a valid integer"),
        ({"dim": "192"}, "dim='192': input should be a valid integer"),
        ({"depth": True}, "depth=True: input should be a valid integer"),
        ({"depth": None}, "depth=None: input should be a valid integer"),
        ({"class_token": "no"}, "class_token='no': input should be a valid boolean"),
        ({"layer_scale": "x"}, "layer_scale='x': input should be a valid number"),
        ({"norm_eps": None}, "norm_eps=None: input should be a valid number"),
        ({"dropout": float("nan")}, "dropout=nan: input should be a finite number"),
        ({"image_size": True}, "image_size=True is not one side or (height, width)"),
        ({"image_size": [224]}, "image_size=[224] is not one side or (height, width)"),
        ({"image_size": 224.0}, "image_size=224.0 is not one side or (height, width)"),
        ({"image_size": (224, "a")}, "image_size=(224, 'a') is not one side or (height, width)"),
        ({"pool": "max"}, "pool='max' is unknown; choose cls, mean, cls_mean or attention"),
        ({"pool": ["cls"]}, "pool=('cls',) is unknown; choose"),
        ({"num_classes": "five"}, "num_classes='five': input should be a valid integer"),
        ({"name": 3}, "has no setting 'name'"),
    ],
    ids=str,
)
def test_values_of_a_wrong_type(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_config("vit_tiny_patch16_224", **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("depths", [3, [2, 2.0, 6, 2], [2, [2], 6, 2], "2262"])
def test_sequences_of_a_wrong_type(depths: Any) -> None:
    with pytest.raises(ConfigError, match=r"^depths=.*: input should be a valid"):
        find_config("swin_tiny_patch4_window7_224", depths=depths)


def test_messages_stay_short() -> None:
    with pytest.raises(ConfigError) as caught:
        find_config("vit_tiny_patch16_224", depth="x" * 10_000)
    assert len(str(caught.value)) < 100


def test_build_makes_new_weights_each_time() -> None:
    config = find_config("vit_tiny_patch16_224", **TINY_VIT)
    torch.manual_seed(0)
    first, second = build(config).state_dict(), build(config).state_dict()
    assert not torch.equal(first["pos_embed"], second["pos_embed"])
    torch.manual_seed(0)
    again = build(config).state_dict()
    assert all(torch.equal(again[key], first[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_smal_patch16_224", "no model is called 'vit_smal_patch16_224', did you mean 'vit_s"),
        (
            "vit_smal_patch16_224.tag",
            r"called 'vit_smal_patch16_224\.tag', did you mean 'vit_small",
        ),
        ("resnet", r"no model is called 'resnet', did you mean 'resnet\d+'\?; `vitkit models`"),
        ("gpt", r"no model is called 'gpt'; `vitkit models` lists all"),
        ("", "no model is called ''; `vitkit models` lists all"),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model(name)


@pytest.mark.parametrize(
    ("name", "key", "hint"),
    [
        ("vit_tiny_patch16_224", "num_head", ", did you mean 'num_heads'?"),
        ("vit_tiny_patch16_224", "img_size", ", did you mean 'image_size'?"),
        ("deit_tiny_distilled_patch16_224", "drop_pth", ", did you mean 'drop_path'?"),
        ("swin_tiny_patch4_window7_224", "depth", ", did you mean 'depths'?"),
        ("swin_tiny_patch4_window7_224", "zzz", ""),
    ],
)
def test_unknown_setting(name: str, key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create_model(name, **{key: 1})
    message = str(caught.value)
    assert message.startswith(
        f"{name} has no setting {key!r}{hint}; it has image_size, in_channels,"
    )
    assert message.endswith("drop_path, norm_eps" if "swin" not in name else "drop_path")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("vit_tiny_patch16_224", {"image_size": 225}),
        ("vit_tiny_patch16_224", {"num_heads": 5}),
        ("deit_tiny_distilled_patch16_224", {"pool": "mean"}),
        ("swin_tiny_patch4_window7_224", {"depths": (2, 2)}),
        ("swin_tiny_patch4_window7_224", {"window_size": 0}),
        ("vit_tiny_patch16_224", {"in_channels": 0}),
    ],
    ids=str,
)
def test_values_that_break_a_rule(name: str, broken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(broken))):
        create_model(name, **broken)


def test_nearest() -> None:
    assert nearest("mod", ["mode", "code"]) == ", did you mean 'mode'?"
    assert nearest("mod", []) == nearest("xyz", ["mode"]) == nearest("", ["mode"]) == ""


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("ROSE", ["daisy", "rose"], "rose"),
        ("rose", ["DAISY", "ROSE"], "ROSE"),
        ("ROS", ["daisy", "Rosemary"], "Rosemary"),
        ("MOD", ["mode", "code"], "mode"),
        ("rosa", ["Rose", "rose"], "rose"),
        ("Rosa", ["Rose", "rose"], "Rose"),
    ],
)
def test_nearest_looks_past_case(word: str, known: list[str], meant: str) -> None:
    assert nearest(word, known) == f", did you mean {meant!r}?"


def test_configs_are_frozen_and_comparable() -> None:
    config = find_config("vit_tiny_patch16_224")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 3  # type: ignore[misc]
    assert len({config, find_config("deit_tiny_patch16_224")}) == 1  # one architecture, two recipes
