"""What we write, each library opens with its own loader, and gives our logits."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from torch import nn

import vitkit
from vitkit.errors import ConfigError, WeightsError
from vitkit.models import create_model
from vitkit.models.backbone import Backbone
from vitkit.weights import store
from vitkit.weights.convert import check_destination, convert, lost_temperature

SMALL = {"num_classes": 5, "image_size": 64, "dim": 64, "depth": 2, "num_heads": 2}
WINDOWS = {"num_classes": 5, "image_size": 64, "dim": 32, "depths": (2, 2), "num_heads": (2, 4)}
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL,
    "vit_small_patch14_dinov2": SMALL | {"image_size": 56, "pool": "cls_mean"},
    "vit_small_patch14_reg4_dinov2": SMALL | {"image_size": 56, "pool": "cls_mean"},
    "deit3_small_patch16_224": SMALL,
    "swin_tiny_patch4_window7_224": WINDOWS | {"window_size": 4},
    "swinv2_tiny_window8_256": WINDOWS | {"window_size": 4, "pretrained_window_sizes": (0, 0)},
    "vit_small_r26_s32_224": {"num_classes": 5, "image_size": 64},
    "resnet18": {"num_classes": 5},
    "regnety_004": {"num_classes": 5},
}
LACKING = {  # what a library has no model for
    "timm": ("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"),  # with that head
    "huggingface": ("deit3_small_patch16_224", "vit_small_r26_s32_224"),
    "torchvision": (
        "deit_tiny_distilled_patch16_224",
        "vit_small_patch14_dinov2",
        "vit_small_patch14_reg4_dinov2",
        "deit3_small_patch16_224",
        "vit_small_r26_s32_224",
    ),
}
PREPROCESS = {
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
}
CASES = [(to, name) for to in ("timm", "huggingface", "torchvision") for name in MODELS]


@pytest.fixture
def saved(tmp_path: Path, randomised: Callable[[nn.Module], nn.Module]) -> Callable[..., Path]:
    """A checkpoint of ours with random weights."""

    def save(name: str) -> Path:
        model = randomised(create_model(name, **MODELS[name]))
        assert isinstance(model, Backbone)
        c = model.config
        directory = tmp_path / "ours"
        directory.mkdir()
        store.save(
            directory,
            model,
            architecture=name,
            classes=["a", "b", "c", "d", "e"],
            preprocess={**PREPROCESS, "input_size": [3, *c.image_size]},
        )
        return directory

    return save


def open_in(to: str, path: Path, name: str, config: Any) -> nn.Module:
    """Their own loader's model."""
    if to == "timm":
        return timm.create_model(f"local-dir:{path}", pretrained=True)
    if to == "huggingface":
        kind = transformers.AutoModelForImageClassification
        model = kind.from_pretrained(path, ignore_mismatched_sizes=False)
        if name.startswith("deit"):
            model = transformers.DeiTForImageClassificationWithTeacher.from_pretrained(path)
        return model
    return open_in_torchvision(path, name, config)


def open_in_torchvision(path: Path, name: str, c: Any) -> nn.Module:
    models = torchvision.models
    if name.startswith("vit"):
        model = models.VisionTransformer(
            c.image_size[0], c.patch_size, c.depth, c.num_heads, c.dim, 4 * c.dim, num_classes=5
        )
    elif name.startswith("swin"):
        swin = models.swin_transformer
        second = {
            "block": swin.SwinTransformerBlockV2,
            "downsample_layer": swin.PatchMergingV2,
        }
        model = models.SwinTransformer(
            [4, 4], c.dim, list(c.depths), list(c.num_heads), [c.window_size] * 2, num_classes=5,
            **second if name.startswith("swinv2") else {},
        )  # fmt: skip
    else:
        kinds = {"resnet18": models.resnet18, "regnety_004": models.regnet_y_400mf}
        model = kinds[name](num_classes=5)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


@pytest.mark.parametrize(("to", "name"), CASES)
def test_their_own_loader_gives_our_logits(
    to: str, name: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    stored = store.load(saved(name))
    ours = stored.build()
    path = tmp_path / ("there.pth" if to == "torchvision" else "there")
    if name in LACKING[to]:
        with pytest.raises(WeightsError):
            convert(stored, ours, path, to)
        assert not path.exists()
        return
    convert(stored, ours, path, to)
    theirs = open_in(to, path, name, ours.config).eval()
    x = torch.randn(2, 3, *ours.config.image_size)
    with torch.no_grad():
        expected, given = ours(x), theirs(x)
        given = given if isinstance(given, torch.Tensor) else given.logits
    assert (given - expected).abs().max() / expected.abs().max() < 1e-4
    again = store.load(path)
    assert again.source in (to, "timm")  # torchvision's ResNet has timm's names
    for key, tensor in ours.state_dict().items():
        assert torch.equal(again.tensors[key], tensor), key
    if to != "torchvision":
        assert again.classes == ("a", "b", "c", "d", "e")


def test_classes_and_preprocessing_come_along(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Their processor and ours make the same pixels of the same picture, to rounding."""
    name = "vit_tiny_patch16_224"
    stored = store.load(saved(name))
    convert(stored, stored.build(), tmp_path / "hf", "huggingface")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf", use_fast=False)
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 255, (90, 120, 3), dtype=np.uint8))
    theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
    ours = vitkit.load(tmp_path / "hf").preprocess(np.asarray(picture))
    assert ours.shape == theirs.shape == (3, 64, 64)
    assert (ours - theirs).abs().mean() < 0.02
    prediction = vitkit.load(tmp_path / "hf").predict(picture)[0]
    assert prediction.label in "abcde"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_tensors_alone(saved: Callable[..., Path], tmp_path: Path, suffix: str) -> None:
    stored = store.load(saved("vit_tiny_patch16_224"))
    convert(stored, stored.build(), tmp_path / f"x{suffix}", "huggingface")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [f"x{suffix}"]
    again = store.load(tmp_path / f"x{suffix}", model="vit_tiny_patch16_224")
    assert again.source == "huggingface"


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("x", "torchvison", "--to torchvison is unknown, did you mean 'torchvision'"),
        ("x", "torchvision", "torchvision reads files; give .*x the suffix .pth"),
        ("there", "timm", "there exists already; choose another destination"),
        ("file.pth", "timm", "file.pth exists already"),
    ],
)
def test_destinations(tmp_path: Path, name: str, to: str, message: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").touch()
    (tmp_path / "file.pth").touch()
    with pytest.raises(ConfigError, match=message):
        check_destination(tmp_path / name, to)


def test_a_full_disk_leaves_nothing(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = store.load(saved("vit_tiny_patch16_224"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(vitkit.CheckpointError, match="x.pth cannot be written: .*No space left"):
        convert(stored, stored.build(), tmp_path / "x.pth", "timm")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_timms_description_is_timms(saved: Callable[..., Path], tmp_path: Path) -> None:
    stored = store.load(saved("vit_tiny_patch16_224"))
    convert(stored, stored.build(), tmp_path / "timm", "timm")
    described = json.loads((tmp_path / "timm" / "config.json").read_text("utf-8"))
    assert described["architecture"] == "vit_tiny_patch16_224" and "vitkit" not in described


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_dinov2_without_a_head(name: str, tmp_path: Path) -> None:
    model = create_model(name, **MODELS[name] | {"num_classes": 0, "pool": "cls"})
    (tmp_path / "ours").mkdir()
    described = {**PREPROCESS, "input_size": [3, 56, 56]}
    store.save(tmp_path / "ours", model, architecture=name, classes=[], preprocess=described)
    stored = store.load(tmp_path / "ours")
    convert(stored, stored.build(), tmp_path / "hf", "huggingface")
    theirs, info = transformers.AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    x = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = theirs(x).last_hidden_state
        gap = (stored.build().forward_features(x) - expected).abs().max() / expected.abs().max()
    assert gap < 1e-4


@pytest.mark.parametrize("settings", [{"activation": "gelu_tanh"}, {"norm_eps": 1e-3}])
def test_torchvision_has_one_gelu_and_one_eps(settings: dict[str, Any], tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    model = create_model(name, **SMALL | settings)
    (tmp_path / "ours").mkdir()
    described = {**PREPROCESS, "input_size": [3, 64, 64]}
    store.save(tmp_path / "ours", model, architecture=name, classes="abcde", preprocess=described)
    stored = store.load(tmp_path / "ours")
    with pytest.raises(WeightsError, match="torchvision has no ViT with"):
        convert(stored, stored.build(), tmp_path / "x.pth", "torchvision")


@pytest.mark.parametrize("to", ["vitkit", "timm"])
def test_a_temperature_goes_where_there_is_a_place_for_it(
    saved: Callable[..., Path], tmp_path: Path, to: str
) -> None:
    path = saved("vit_tiny_patch16_224")
    described = json.loads((path / "config.json").read_text("utf-8"))
    described["vitkit"]["temperature"] = 1.75
    (path / "config.json").write_text(json.dumps(described))
    stored = store.load(path)
    convert(stored, stored.build(), tmp_path / to, to)
    said = lost_temperature(stored, stored.config, to)
    if to == "vitkit":
        assert store.load(tmp_path / to).temperature == 1.75 and said == ""
    else:
        assert said == "temperature=1.75 is left out: divide the logits by it yourself"
    fewer = replace(stored.config, num_classes=2)
    convert(stored, stored.build_as(fewer)[0], tmp_path / "fewer", "vitkit")
    assert store.load(tmp_path / "fewer").temperature == 1  # of a new head nothing is known
    assert lost_temperature(stored, fewer, to) == ""
