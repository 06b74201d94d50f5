"""Which parameters decay, and that steps are AdamW's."""

import copy

import pytest
import torch
from torch import nn

from vitkit.models import create_model
from vitkit.models.backbone import Backbone
from vitkit.training.optim import adamw

VIT = {"image_size": 16, "patch_size": 8, "dim": 16, "depth": 2, "num_heads": 2}
MODELS = {
    "vit_tiny_patch16_224": {**VIT, "registers": 2, "layer_scale": 0.1, "qk_norm": True},
    "deit_tiny_distilled_patch16_224": VIT,
    "swin_tiny_patch4_window7_224": {
        "image_size": 32,
        "dim": 8,
        "depths": (1, 1),
        "num_heads": (1, 2),
    },
}
SPARED = ("pos_embed", "cls_token", "reg_token", "dist_token", "relative_position_bias_table")


def small(name: str) -> Backbone:
    torch.manual_seed(0)
    return create_model(name, num_classes=3, **MODELS[name])


@pytest.mark.parametrize("name", MODELS)
def test_matrices_decay_and_nothing_else(name: str) -> None:
    model = small(name)
    optimizer = adamw(model, lr=0.1, weight_decay=0.3, betas=(0.9, 0.99))
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    names = dict(model.named_parameters())
    assert len(decay) == len(names)
    decayed = {name for name, parameter in names.items() if decay[id(parameter)] == 0.3}
    assert decayed == {
        name
        for name in names
        if name.endswith(".weight") and "norm" not in name and not name.endswith(SPARED)
    }
    assert {decay[id(names[name])] for name in names.keys() - decayed} == {0.0}
    assert any(name.endswith(SPARED) for name in names)


@pytest.mark.parametrize("name", ["resnet18", "regnety_002", "convnet_3_32"])
def test_kernels_decay_but_neither_norms_nor_biases(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=3)
    optimizer = adamw(model, lr=0.1, weight_decay=0.3, betas=(0.9, 0.99))
    decayed = {id(p) for p in optimizer.param_groups[0]["params"]}
    kinds = nn.Conv2d | nn.Linear
    kernels = {id(m.weight) for m in model.modules() if isinstance(m, kinds)}
    assert decayed == kernels
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(model.parameters())
    )


def test_frozen_parameters_are_left_out() -> None:
    model = small("vit_tiny_patch16_224")
    model.patch_embed.requires_grad_(False)
    optimizer = adamw(model, lr=0.1, weight_decay=0.3, betas=(0.9, 0.99))
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(model.parameters())) - 2


def test_steps_equal_those_of_the_plain_adamw() -> None:
    ours = small("vit_tiny_patch16_224")
    theirs = copy.deepcopy(ours)
    optimizer = adamw(ours, lr=0.01, weight_decay=0.3, betas=(0.8, 0.95))
    spared = theirs.no_weight_decay()
    reference = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": 0.3 if p.ndim > 1 and name not in spared else 0.0}
            for name, p in theirs.named_parameters()
        ],
        lr=0.01,
        betas=(0.8, 0.95),
        fused=False,
        foreach=False,
    )
    for _ in range(3):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        optimizer.step()
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
