"""Code written for timm's backbones, run unchanged over timm's model and over ours."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.models import create_model

SIZE = (64, 96)
# Our settings and timm's for a small model of each family that timm has too.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit_tiny_patch16_224": (
        {"image_size": SIZE, "dim": 32, "depth": 4, "num_heads": 2},
        {"img_size": SIZE, "embed_dim": 32, "depth": 4, "num_heads": 2},
    ),
    "deit_tiny_distilled_patch16_224": (
        {"image_size": SIZE, "dim": 32, "depth": 4, "num_heads": 2},
        {"img_size": SIZE, "embed_dim": 32, "depth": 4, "num_heads": 2},
    ),
    "vit_small_patch14_reg4_dinov2": (
        {"image_size": (56, 84), "dim": 32, "depth": 4, "num_heads": 2},
        {"img_size": (56, 84), "embed_dim": 32, "depth": 4, "num_heads": 2},
    ),
    "vit_small_r26_s32_224": (
        {"image_size": SIZE, "dim": 32, "depth": 4, "num_heads": 2},
        {"img_size": SIZE, "embed_dim": 32, "depth": 4, "num_heads": 2},
    ),
    "swin_tiny_patch4_window7_224": (
        {"image_size": SIZE, "dim": 16, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8)},
        {"img_size": SIZE, "embed_dim": 16, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8)},
    ),
    "swinv2_tiny_window8_256": (
        {"image_size": SIZE, "dim": 16, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8)},
        {"img_size": SIZE, "embed_dim": 16, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8)},
    ),
    "resnet18": ({}, {}),
    "regnety_002": ({}, {}),
}


class Segmenter(nn.Module):
    """A pyramid over a backbone's maps, as segmentation libraries build it: (B, 5, H, W)."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.indices = list(range(len(backbone.feature_info)))[-3:]
        torch.manual_seed(1)
        widths = [backbone.feature_info[i]["num_chs"] for i in self.indices]
        self.reductions = [backbone.feature_info[i]["reduction"] for i in self.indices]
        self.lateral = nn.ModuleList(nn.Conv2d(width, 8, 1) for width in widths)
        self.out = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.backbone.forward_intermediates(x, indices=self.indices, intermediates_only=True)
        size = maps[0].shape[-2:]
        for found, reduction in zip(maps, self.reductions, strict=True):
            assert found.shape[-2] == -(-x.shape[-2] // reduction)
        laterals = (conv(m) for conv, m in zip(self.lateral, maps, strict=True))
        merged = sum(F.interpolate(m, size=size, mode="bilinear") for m in laterals)
        return F.interpolate(self.out(merged), size=x.shape[-2:], mode="bilinear")


def pair(name: str) -> tuple[Any, Any]:
    """timm's model and ours with the same random weights, in float64."""
    ours, theirs = CASES[name]
    torch.manual_seed(0)
    reference = timm.create_model(name, num_classes=7, **theirs).double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model = create_model(name, num_classes=7, drop_path=0.0, **ours).double()
    model.load_state_dict(reference.state_dict())
    return reference.eval(), model.eval()


def image(name: str) -> Tensor:
    torch.manual_seed(2)
    size = CASES[name][0].get("image_size", SIZE)
    return torch.randn(2, 3, *size, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_segmentation(name: str, checkpointing: bool) -> None:
    """The same maps, the same result, the same gradients of every weight of the backbone."""
    results, gradients = [], []
    for backbone in pair(name):
        backbone.set_grad_checkpointing(checkpointing)
        segmenter = Segmenter(backbone).double()
        result = segmenter(image(name))
        result.square().mean().backward()
        results.append(result.detach())
        named = dict(backbone.named_parameters())
        gradients.append({key: p.grad for key, p in named.items() if p.grad is not None})
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
    assert gradients[0].keys() == gradients[1].keys()
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_features_without_a_head(name: str) -> None:
    """`reset_classifier(0, "")` leaves what comes before pooling, and a new head comes back."""
    reference, model = pair(name)
    x = image(name)
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(x), pre_logits=True)
        given = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-9)
        for backbone in (reference, model):
            backbone.reset_classifier(0, "")
        if "distilled" not in name:  # timm pools those all the same
            torch.testing.assert_close(model(x), reference(x), rtol=1e-9, atol=1e-9)
    model.reset_classifier(3, own_pool(name))
    assert model(x).shape == (2, 3)


def own_pool(name: str) -> str:
    return "token" if name.startswith(("vit", "deit")) else "avg"


@pytest.mark.parametrize("name", CASES)
def test_groups_of_weight_decay(name: str) -> None:
    """What timm spares by name, and is no vector, we spare too."""
    reference, model = pair(name)
    spared = reference.no_weight_decay() if hasattr(reference, "no_weight_decay") else set()
    named = {key for key, p in model.named_parameters() if p.ndim > 1}
    assert {key for key in spared if key in named} <= model.no_weight_decay()
