"""Our settings as timm's arguments: timm builds the same model from them."""

import dataclasses
import json
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

from vitkit.errors import WeightsError
from vitkit.models import CONFIGS, build, find_config
from vitkit.models.backbone import Config
from vitkit.models.swin import SwinConfig
from vitkit.models.vit import ViTConfig
from vitkit.weights.formats.timm_config import changes, model_args, published_preprocess, structure

VIT, DISTILLED = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
SWIN = "swin_tiny_patch4_window7_224"
TINY: dict[str, dict[str, Any]] = {
    VIT: {"image_size": (32, 48), "patch_size": 8, "dim": 32, "depth": 2, "num_heads": 4},
    SWIN: {"image_size": (64, 96), "dim": 16, "depths": (2, 2), "num_heads": (2, 4)},
}
TINY[DISTILLED] = TINY[VIT]

# Every field of ours, and timm's argument for a changed value of it.
VIT_FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"image_size": (48, 32)}, {"img_size": (48, 32)}),
    ({"patch_size": 4}, {"patch_size": 4}),
    ({"in_channels": 1}, {"in_chans": 1}),
    ({"num_classes": 7}, {"num_classes": 7}),
    ({"dim": 48}, {"embed_dim": 48}),
    ({"depth": 1}, {"depth": 1}),
    ({"num_heads": 2}, {"num_heads": 2}),
    ({"mlp_ratio": 2.0}, {"mlp_ratio": 2.0}),
    ({"pool": "mean"}, {"global_pool": "avg"}),
    ({"pool": "attention"}, {"global_pool": "map"}),
    ({"position": "sincos_1d"}, {"pos_embed": "learn"}),
    ({"position": "sincos_2d"}, {"pos_embed": "learn"}),
    ({"position": "none"}, {"pos_embed": "none"}),
    ({"prefix_positions": False}, {"no_embed_class": True}),
    ({"pool": "mean", "class_token": False}, {"global_pool": "avg", "class_token": False}),
    ({"registers": 3}, {"reg_tokens": 3}),
    ({"layer_scale": 0.1}, {"init_values": 0.1}),
    ({"qk_norm": True}, {"qk_norm": True}),
    ({"fc_norm": True}, {"fc_norm": True}),
    ({"pool": "mean", "fc_norm": False}, {"global_pool": "avg", "fc_norm": False}),
    ({"activation": "gelu_tanh"}, {"act_layer": "gelu_tanh"}),
    ({"activation": "quick_gelu"}, {"act_layer": "quick_gelu"}),
    ({"norm_eps": 1e-12}, {}),  # lost in the rounding of what it is added to
    ({"dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.1}, {}),
]
SWIN_FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"image_size": (96, 64)}, {"img_size": (96, 64)}),
    ({"patch_size": 2}, {"patch_size": 2}),
    ({"in_channels": 4}, {"in_chans": 4}),
    ({"num_classes": 7}, {"num_classes": 7}),
    ({"dim": 32}, {"embed_dim": 32}),
    ({"depths": (1, 3)}, {"depths": (1, 3)}),
    ({"num_heads": (4, 4)}, {"num_heads": (4, 4)}),
    ({"window_size": 4}, {"window_size": 4}),
    ({"mlp_ratio": 2.0}, {"mlp_ratio": 2.0}),
    ({"dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.1}, {}),
]
CASES = [(VIT, *case) for case in VIT_FIELDS] + [(SWIN, *case) for case in SWIN_FIELDS]
REFUSED = {"stem", "stem_pool"}  # timm has none
OF_TIMM = [name for name in CONFIGS if timm.is_model(name)]


@pytest.mark.parametrize(("name", "change", "expected"), CASES)
def test_each_field(name: str, change: dict[str, Any], expected: dict[str, Any]) -> None:
    base, config = TINY[name], find_config(name, **TINY[name] | change)
    common = model_args(name, find_config(name, **base))
    given = model_args(name, config)
    assert {key: value for key, value in given.items() if value != common.get(key)} == expected
    check_same_model(name, config)


def check_same_model(name: str, config: Config) -> None:
    """timm builds from the arguments, as JSON brings them, a model that takes our weights."""
    arguments = json.loads(json.dumps(model_args(name, config)))
    reference = timm.create_model(name, **{"num_classes": 1000, **arguments}).eval()
    model = build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    reference.load_state_dict(model.state_dict(), strict=True)
    image = torch.randn(2, config.in_channels, *config.image_size)
    with torch.no_grad():
        given, expected = model(image), reference(image)
    gap = (given - expected).abs().max() / expected.abs().max()
    assert gap < (1e-4 if getattr(config, "norm_eps", 1e-6) != 1e-6 else 1e-5)


@pytest.mark.parametrize(("kind", "cases"), [(ViTConfig, VIT_FIELDS), (SwinConfig, SWIN_FIELDS)])
def test_no_field_is_forgotten(kind: type, cases: list[tuple[dict[str, Any], Any]]) -> None:
    tried = {key for change, _ in cases for key in change}
    assert tried == {field.name for field in dataclasses.fields(kind)} - REFUSED


@pytest.mark.parametrize(
    "change", [{}, {"layer_scale": 0.1}, {"qk_norm": True}, {"position": "sincos_2d"}]
)
def test_distilled(change: dict[str, Any]) -> None:
    check_same_model(DISTILLED, find_config(DISTILLED, **TINY[DISTILLED] | change))


def test_models_that_timm_lacks() -> None:
    for name in set(CONFIGS) - set(OF_TIMM):
        with pytest.raises(WeightsError, match=f"timm has no {name}"):
            model_args(name, CONFIGS[name])


@pytest.mark.parametrize("name", OF_TIMM)
def test_published_variants_need_no_arguments(name: str) -> None:
    assert model_args(name, CONFIGS[name]) == {}
    assert changes(name, CONFIGS[name]) == {}
    assert model_args(name, replace(CONFIGS[name], num_classes=3)) == {"num_classes": 3}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (VIT, {"norm_eps": 1e-3}, "vit_tiny_patch16_224 has no argument for norm_eps=0.001"),
        (VIT, {"pool": "cls_mean"}, "vit_tiny_patch16_224 has no argument for pool='cls_mean'"),
        (DISTILLED, {"registers": 2}, "cannot follow registers=2"),
        (DISTILLED, {"prefix_positions": False}, "cannot follow prefix_positions=False"),
        (DISTILLED, {"position": "none"}, "cannot follow position='none'"),
        (SWIN, {"image_size": (50, 70)}, r"cannot follow image_size=\(50, 70\)"),
        (SWIN, {"patch_size": 3}, r"cannot follow image_size=\(224, 224\)"),
    ],
)
def test_what_timm_cannot_follow(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        model_args(name, find_config(name, **change))


@pytest.mark.parametrize("name", OF_TIMM)
def test_published_preprocess(name: str) -> None:
    """What timm itself says of the weights that it loads by default."""
    cfg = get_pretrained_cfg(name)
    given = published_preprocess(name)
    if name.startswith(("resnet", "regnety")):  # recipes differ, and with them the crop
        assert 0.875 <= cfg.crop_pct <= 0.965 and given.pop("crop_pct") == 0.95
        given["crop_pct"] = cfg.crop_pct
    assert set(given) == {"input_size", "crop_pct", "interpolation", "mean", "std"}
    for key, value in given.items():
        expected = getattr(cfg, key)
        assert value == (list(expected) if isinstance(value, list) else expected), key


@pytest.mark.parametrize("name", OF_TIMM)
def test_structure(name: str) -> None:
    given = structure(CONFIGS[name])
    cfg = get_pretrained_cfg(name)
    assert given["first_conv"] == cfg.first_conv
    assert given["classifier"] == (
        list(cfg.classifier) if isinstance(cfg.classifier, tuple) else cfg.classifier
    )
