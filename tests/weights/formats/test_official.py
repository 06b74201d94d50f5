"""Names of the authors' files: built from timm's by the changes that timm documents for them."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitkit.weights.formats import detect, layout_for

DEIT3 = ("deit3_small_patch16_224", {"depth": 2, "img_size": 64})
DINOV2 = ("vit_small_patch14_dinov2", {"depth": 2, "img_size": 56})
REGISTERS = ("vit_small_patch14_reg4_dinov2", {"depth": 2, "img_size": 56})
SWIN = ("swin_tiny_patch4_window7_224", {"depths": (2, 2), "num_heads": (3, 6)})
SWINV2 = ("swinv2_tiny_window8_256", {"depths": (2, 2), "num_heads": (3, 6)})


def deit3(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """gamma_1 and gamma_2 are timm's ls1.gamma and ls2.gamma."""
    return {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t
        for key, t in tensors.items()
    }


def dinov2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same names, and the token that stood for masked patches."""
    return {key: t for key, t in tensors.items() if not key.startswith("head")} | {
        "mask_token": torch.zeros(1, 384)
    }


def registers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The class token has a position of its own, which timm adds to the token."""
    tensors = dinov2(tensors)
    place = torch.randn_like(tensors["cls_token"])
    tensors["cls_token"] = tensors["cls_token"] - place
    tensors["pos_embed"] = torch.cat([place, tensors["pos_embed"]], dim=1)
    tensors["register_tokens"] = tensors.pop("reg_token")
    return tensors


def swin(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A stage ends with the merging that timm begins the next with; and tables are kept."""
    renamed = {
        key.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head"): t
        for key, t in tensors.items()
    }
    return renamed | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}


CASES = {
    "deit3": (DEIT3, deit3, (64, 64)),
    "dinov2": (DINOV2, dinov2, (56, 56)),
    "registers": (REGISTERS, registers, (56, 56)),
    "swin": (SWIN, swin, (224, 224)),
    "swinv2": (SWINV2, swin, (256, 256)),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_and_back(
    name: str,
    randomised: Callable[[nn.Module], nn.Module],
    translate: Callable[..., Any],
) -> None:
    (architecture, settings), rename, size = CASES[name]
    classes = 0 if "14" in architecture else 5
    theirs = randomised(timm.create_model(architecture, num_classes=classes, **settings))
    tensors = rename(dict(theirs.state_dict()))
    ours, layout = translate(tensors)
    assert layout.source == "official"
    with torch.no_grad():
        x = torch.randn(2, 3, *size)
        expected = theirs(x)
        gap = (ours(x) - expected).abs().max() / expected.abs().max()
    assert gap.item() < 1e-5
    written = layout_for("official", ours.config).write(ours.state_dict(), ours.config)
    again, _ = detect(written | {k: t for k, t in tensors.items() if layout.ignores(k)}).read(
        written
    )
    assert all(torch.equal(again[key], tensor) for key, tensor in ours.state_dict().items())
    assert written.keys() == {key for key in tensors if not layout.ignores(key)}


@pytest.mark.parametrize("wrapper", ["blocks.0.ls1.gamma", "head.weight"])
def test_deit3_has_no_positions_for_its_class_token(
    wrapper: str, randomised: Callable[[nn.Module], nn.Module], translate: Callable[..., Any]
) -> None:
    (architecture, settings), rename, _ = CASES["deit3"]
    theirs = randomised(timm.create_model(architecture, num_classes=5, **settings))
    ours, _ = translate(rename(dict(theirs.state_dict())))
    assert not ours.config.prefix_positions and ours.config.image_size == (64, 64)
    assert torch.equal(ours.state_dict()[wrapper], theirs.state_dict()[wrapper])


def test_deit_has_timms_names_and_its_own_way_to_resize() -> None:
    tensors = timm.create_model("deit_tiny_distilled_patch16_224", depth=1).state_dict()
    assert detect(tensors).source == "timm"
    told = detect(tensors, "official")
    assert (told.source, told.resize) == ("official", "bicubic")
