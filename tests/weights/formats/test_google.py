"""Google's layouts: timm's own loader of `.npz` files reads what we write, and gives it back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from vitkit.models import find_config
from vitkit.weights.formats import detect, google

SIZE = {"img_size": 64, "patch_size": 16, "embed_dim": 192, "depth": 2, "num_heads": 3}
CASES: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "original": ("vit_tiny_patch16_224", 0, {}, ""),
    "augreg": ("vit_tiny_patch16_224", 0, {}, "opt/target/"),
    "big_vision": ("vit_tiny_patch16_224", 1, {"no_embed_class": True}, "params/"),
    "map head": (
        "vit_tiny_patch16_224",
        1,
        {"class_token": False, "global_pool": "map"},
        "params/img/",
    ),
    "hybrid": ("vit_small_r26_s32_224", 3, {}, ""),
    "stem": ("vit_tiny_r_s16_p8_224", 2, {}, ""),
}


def make(name: str, randomised: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """timm's model of a case."""
    architecture, _, settings, _ = CASES[name]
    size = SIZE if architecture == "vit_tiny_patch16_224" else {"img_size": 64}
    return randomised(timm.create_model(architecture, num_classes=5, **size, **settings))


def write(name: str, theirs: nn.Module) -> dict[str, Tensor]:
    """Its tensors in Google's layout."""
    _, layout, settings, wrapper = CASES[name]
    config = find_config("vit_tiny_patch16_224", depth=2)
    tensors = google.LAYOUTS[layout].write(theirs.state_dict(), config_of(name, config))
    return {wrapper + key: tensor for key, tensor in tensors.items()}


def config_of(name: str, plain: Any) -> Any:
    architecture = CASES[name][0]
    return plain if architecture == "vit_tiny_patch16_224" else find_config(architecture)


@pytest.mark.parametrize("name", CASES)
def test_timm_reads_it(
    name: str, randomised: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    theirs = make(name, randomised)
    arrays = {key: t.contiguous().numpy() for key, t in write(name, theirs).items()}
    np.savez(tmp_path / "weights.npz", **arrays)
    torch.manual_seed(1)
    again = make(name, lambda model: model.eval())
    again.load_pretrained(str(tmp_path / "weights.npz"))
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", CASES)
def test_we_read_it(
    name: str, randomised: Callable[[nn.Module], nn.Module], translate: Callable[..., Any]
) -> None:
    """The same tensors as timm's; Flax's GELU unless told otherwise."""
    theirs = make(name, randomised)
    ours, layout = translate(write(name, theirs))
    assert layout.source == "google" and layout.resize == "linear_corners"
    assert ours.config.activation == "gelu_tanh"
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor), key
    exact, _ = translate(write(name, theirs), activation="gelu", epsilons="timm")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, ours_exact, ours_tanh = theirs(x), exact(x), ours(x)
    largest = expected.abs().max()
    assert (ours_exact - expected).abs().max() / largest < 1e-5
    assert (ours_tanh - expected).abs().max() / largest > 1e-5


def test_blocks_may_be_stacked(
    randomised: Callable[[nn.Module], nn.Module], translate: Callable[..., Any]
) -> None:
    """big_vision has all blocks in one tensor where it scans over them."""
    tensors = write("big_vision", make("big_vision", randomised))
    first = [key for key in tensors if "encoderblock_0/" in key]
    stacked = {key: t for key, t in tensors.items() if "encoderblock_" not in key}
    for key in first:
        several = [tensors[key], tensors[key.replace("encoderblock_0", "encoderblock_1")]]
        stacked[key.replace("encoderblock_0", "encoderblock")] = torch.stack(several)
    ours, _ = translate(tensors)
    again, layout = translate(stacked)
    assert layout is detect(tensors)
    for key, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_without_class_token_or_positions(
    randomised: Callable[[nn.Module], nn.Module], translate: Callable[..., Any]
) -> None:
    """big_vision's ViT-S/16 averages what it has normalised, and computes its positions."""
    tensors = write("big_vision", make("big_vision", randomised))
    kept = {k: t for k, t in tensors.items() if k not in ("params/cls", "params/pos_embedding")}
    ours, _ = translate(kept, image_size=(64, 64))
    c = ours.config
    assert (c.pool, c.fc_norm, c.class_token, c.position) == ("mean", False, False, "sincos_2d")


def test_pre_logits_are_dropped(
    randomised: Callable[[nn.Module], nn.Module], translate: Callable[..., Any]
) -> None:
    tensors = write("original", make("original", randomised))
    tensors["pre_logits/kernel"] = torch.zeros(192, 192)
    ours, layout = translate(tensors)
    assert layout.ignores("pre_logits/kernel") and ours.num_classes == 5
