"""A model recognised by the names and shapes of its tensors alone."""

import dataclasses
from typing import Any

import pytest
import timm
import torch

from vitkit.errors import WeightsError
from vitkit.models import CONFIGS, build, create_model, find_config
from vitkit.models.backbone import Config
from vitkit.weights.adapt import adapt
from vitkit.weights.describe import Told
from vitkit.weights.formats import detect
from vitkit.weights.infer import Guess, classes_of, closest, recognise

# What tensors cannot tell: numbers that only take part in the computation.
UNTOLD = {"dropout", "attention_dropout", "drop_path", "layer_scale", "image_size", "epsilons"}


def recognised(config: Config, told: Told | None = None) -> Guess:
    with torch.device("meta"):
        tensors = build(config).state_dict()
    layout = detect(tensors)
    ours, left = layout.read(tensors)
    return recognise(ours, left, layout, told or Told())


@pytest.mark.parametrize("name", CONFIGS)
def test_every_published_model(name: str) -> None:
    config = find_config(name, num_classes=7)
    windows = ("window_size", "pretrained_window_sizes") if "swinv2" in name else ()
    if windows:
        with pytest.raises(WeightsError, match=f"not tell the window of a SwinV2.*{name}"):
            recognised(config)
    guess = recognised(config, Told(settings={key: getattr(config, key) for key in windows}))
    for field in dataclasses.fields(config):
        if field.name not in UNTOLD:
            given, expected = getattr(guess.config, field.name), getattr(config, field.name)
            assert given == expected, field.name
    if "pos_embed" in build_names(config):
        assert guess.config.image_size == config.image_size
    assert guess.config.num_classes == 7 and guess.config.in_channels == 3


def build_names(config: Config) -> list[str]:
    with torch.device("meta"):
        return list(build(config).state_dict())


SMALL = {"dim": 64, "depth": 3, "num_heads": 1, "patch_size": 8, "image_size": 64}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"in_channels": 1, "num_classes": 0},
        {"class_token": False, "pool": "mean"},
        {"pool": "mean"},
        {"pool": "mean", "fc_norm": False, "class_token": False},
        {"pool": "attention", "class_token": False},
        {"pool": "attention"},
        {"pool": "cls_mean"},
        {"registers": 4, "prefix_positions": False, "qk_norm": True, "mlp_ratio": 2.0},
        {"registers": 2, "layer_scale": 0.1},
    ],
    ids=str,
)
def test_any_vit(settings: dict[str, Any]) -> None:
    config = find_config("vit_tiny_patch16_224", **SMALL | settings)
    guess = recognised(config)
    same = {"layer_scale": guess.config.layer_scale}  # type: ignore[attr-defined]
    assert guess.config == dataclasses.replace(config, **same)
    assert (guess.config.layer_scale is None) == (config.layer_scale is None)  # type: ignore[attr-defined]
    heads, size = guess.notes
    assert heads == "num_heads=1 is usual for dim=64; shapes do not tell"
    assert size.startswith("image_size=64x64, a square; shapes tell only how many patches")


def test_a_description_comes_before_shapes() -> None:
    config = find_config(
        "vit_tiny_patch16_224", image_size=(32, 128)
    )  # 2 x 8 patches: a square too
    assert recognised(config).config.image_size == (64, 64)
    told = Told(settings={"image_size": (32, 128), "num_heads": 3})
    guess = recognised(config, told)
    assert guess.config == config and guess.notes == ()


def test_a_grid_that_is_no_square() -> None:
    config = find_config("vit_tiny_patch16_224", image_size=(32, 48))
    with pytest.raises(WeightsError, match="pos_embed has 6 cells, which are no square"):
        recognised(config)


@pytest.mark.parametrize("window", [4, 7])
def test_swin(window: int) -> None:
    config = find_config(
        "swin_tiny_patch4_window7_224", depths=(1, 3), num_heads=(2, 4), dim=64, window_size=window
    )
    guess = recognised(config)
    assert guess.config == dataclasses.replace(config, image_size=guess.config.image_size)
    assert "image_size=(224, 224) is usual for this width; shapes do not tell" in guess.notes


def test_closest() -> None:
    assert closest(find_config("vit_base_patch16_384", num_classes=3)) == "vit_base_patch16_384"
    assert closest(find_config("resnet50", in_channels=1)) == "resnet50"


def test_nothing_published_is_like_it() -> None:
    with torch.device("meta"):
        tensors = create_model("cct_7_3x1_32", depth=3).state_dict()
    layout = detect(tensors)
    with pytest.raises(WeightsError, match="no published model has these tensors; name it with"):
        recognise(tensors, {}, layout, Told())


def test_parts_are_missing() -> None:
    with torch.device("meta"):
        tensors = dict(create_model("vit_tiny_patch16_224").state_dict())
    del tensors["blocks.0.mlp.fc1.weight"]
    with pytest.raises(WeightsError, match="do not tell which model they are of"):
        recognise(tensors, {}, detect(tensors), Told())


def test_windows_of_pretraining() -> None:
    """Only a table in the authors' files tells with which windows offsets were learned."""
    theirs = timm.create_model("swinv2_base_window12to16_192to256", depths=(1, 1, 1, 1))
    tensors = dict(theirs.state_dict())
    for name, module in theirs.named_modules():
        if hasattr(module, "relative_coords_table"):
            tensors[f"{name}.relative_coords_table"] = module.relative_coords_table
    layout = detect(tensors)
    ours, left = layout.read(tensors)
    config = recognise(ours, left, layout, Told()).config
    assert config.pretrained_window_sizes == (12, 12, 12, 6)  # type: ignore[attr-defined]
    assert config.window_size == 16  # type: ignore[attr-defined]


def test_a_head_without_numbers() -> None:
    tensors = {"head.weight": torch.zeros(0, 192), "head.bias": torch.zeros(0)}
    with pytest.raises(WeightsError, match=r"the head has shape \(0, 192\), and so no number"):
        classes_of(tensors)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("patch_embed.proj.weight", (192, 3, 16)),
        ("patch_embed.proj.weight", (0, 3, 16, 16)),
        ("pos_embed", ()),
        ("blocks.0.mlp.fc1.weight", ()),
        ("cls_token", ()),
    ],
)
def test_shapes_of_nothing(name: str, shape: tuple[int, ...]) -> None:
    """Each ends in one line, and none in a traceback."""
    tensors = dict(create_model("vit_tiny_patch16_224", depth=1).state_dict())
    tensors[name] = torch.zeros(shape)
    with pytest.raises(WeightsError) as caught:
        config = recognise(tensors, {}, detect(tensors), Told()).config
        adapt(tensors, config, config)
    assert "\n" not in str(caught.value)
