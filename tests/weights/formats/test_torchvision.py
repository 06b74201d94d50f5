"""torchvision's own models against ours made of their tensors, and back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)

from vitkit.models import find_config
from vitkit.weights.formats import layout_for
from vitkit.weights.formats.torchvision import buffers

V2 = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
WINDOWS = {"patch_size": [4, 4], "embed_dim": 32, "depths": [2, 3], "num_heads": [2, 4]}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: models.VisionTransformer(64, 16, 2, 3, 192, 256, num_classes=5),
    "swin": lambda: SwinTransformer(**WINDOWS, window_size=[4, 4], num_classes=5),
    "swinv2": lambda: SwinTransformer(**WINDOWS, window_size=[4, 4], num_classes=5, **V2),
    "resnet18": lambda: models.resnet18(num_classes=5),
    "resnet50": lambda: models.resnet50(num_classes=5),
    "regnety": lambda: models.regnet_y_400mf(num_classes=5),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_back(
    name: str,
    randomised: Callable[[nn.Module], nn.Module],
    translate: Callable[..., Any],
    same_logits: Callable[..., None],
) -> None:
    """What we write, their own `load_state_dict` takes, and computes the same with."""
    theirs = randomised(MODELS[name]())
    tensors = theirs.state_dict()
    ours, layout = translate(tensors)
    # A ResNet's names are timm's too.
    assert layout.source == ("timm" if "resnet" in name else "torchvision")
    layout = layout_for("torchvision", ours.config)
    written = layout.write(ours.state_dict(), ours.config) | buffers(ours.config)
    assert written.keys() == tensors.keys()
    for key, tensor in tensors.items():
        if name == "swinv2" and key.endswith("qkv.bias"):  # its middle third is never used
            tensor = tensor.clone()
            tensor[len(tensor) // 3 : -len(tensor) // 3] = 0
        torch.testing.assert_close(
            written[key], tensor, rtol=0, atol=0 if "table" not in key else 1e-6
        )
    again = MODELS[name]()
    again.load_state_dict(written)
    same_logits(ours, again.eval(), (64, 64))
    same_logits(ours, theirs, (64, 64))


def test_older_vit(
    randomised: Callable[[nn.Module], nn.Module], translate: Callable[..., Any]
) -> None:
    tensors = randomised(MODELS["vit"]()).state_dict()
    older = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for key, tensor in tensors.items()
    }
    ours, _ = translate(tensors)
    again, layout = translate(older)
    assert layout.source == "torchvision"
    assert all(torch.equal(t, again.state_dict()[k]) for k, t in ours.state_dict().items())


@pytest.mark.parametrize("settings", [{"registers": 1}, {"pool": "mean"}, {"layer_scale": 0.1}])
def test_a_vit_that_torchvision_lacks(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="torchvision has no names for a ViT"):
        layout_for("torchvision", find_config("vit_tiny_patch16_224", **settings))
