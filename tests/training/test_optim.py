"""Which parameters decay, how fast each layer learns, and that steps are those of the optimiser."""

import copy
from typing import Any

import pytest
import timm
import timm.optim
import torch
from torch import nn

from vitkit.errors import ConfigError
from vitkit.models import create_model
from vitkit.models.backbone import Backbone
from vitkit.training.lamb import LAMB
from vitkit.training.muon import MuonAdamW
from vitkit.training.optim import hidden_matrices, make_optimizer, parameter_groups

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
    optimizer = make_optimizer(model, name="adamw", lr=0.1, weight_decay=0.3, betas=(0.9, 0.99))
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
    optimizer = make_optimizer(model, name="adamw", lr=0.1, weight_decay=0.3, betas=(0.9, 0.99))
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
    optimizer = make_optimizer(model, name="adamw", lr=0.1, weight_decay=0.3, betas=(0.9, 0.99))
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(model.parameters())) - 2


def test_steps_equal_those_of_the_plain_adamw() -> None:
    ours = small("vit_tiny_patch16_224")
    theirs = copy.deepcopy(ours)
    optimizer = make_optimizer(ours, name="adamw", lr=0.01, weight_decay=0.3, betas=(0.8, 0.95))
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


SHALLOW: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"depth": 3},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "deit3_small_patch16_224": {"depth": 1},
    "vit_base_r50_s16_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"depths": (1, 2, 2, 1)},
    "swinv2_tiny_window8_256": {"depths": (1, 2, 1, 1)},
    "resnet18": {},
    "resnet50": {},
    "regnety_002": {},
}


@pytest.mark.parametrize("name", SHALLOW)
def test_layers_learn_and_decay_as_in_timm(name: str) -> None:
    with torch.device("meta"):
        ours = create_model(name, **SHALLOW[name])
        theirs = timm.create_model(name, num_classes=1000, **SHALLOW[name])
    names = {id(p): n for model in (ours, theirs) for n, p in model.named_parameters()}
    spared = theirs.no_weight_decay() if hasattr(theirs, "no_weight_decay") else ()
    sides = (
        parameter_groups(ours, weight_decay=0.3, layer_decay=0.6),
        timm.optim.param_groups_layer_decay(theirs, 0.3, spared, layer_decay=0.6),
    )
    got, expected = (
        {
            names[id(p)]: (group["weight_decay"], pytest.approx(group["lr_scale"]))
            for group in groups
            for p in group["params"]
        }
        for groups in sides
    )
    assert got == expected
    assert len({group["lr_scale"] for group in sides[0]}) > 2


def test_heads_come_first_at_the_full_rate() -> None:
    model = small("deit_tiny_distilled_patch16_224")
    for name in ("adamw", "lamb", "sgd", "muon"):
        optimizer = make_optimizer(
            model, name=name, lr=0.1, weight_decay=0.3, muon_lr=0.4, layer_decay=0.5
        )
        first = optimizer.param_groups[0]
        assert {id(p) for p in first["params"]} == {
            id(model.head.weight),
            id(model.head_dist.weight),
        }
        assert first["lr_scale"] == 1
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(0.1 * group["lr_scale"])
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        assert count == len(list(model.parameters()))


def test_muon_has_the_hidden_matrices_and_its_own_rate() -> None:
    model = small("vit_tiny_patch16_224")
    optimizer = make_optimizer(
        model, name="muon", lr=0.01, weight_decay=0.3, muon_lr=0.05, layer_decay=0.5
    )
    assert isinstance(optimizer, MuonAdamW)
    rates = {
        id(parameter): group["lr"]
        for group in optimizer.optimizers[1].param_groups
        for parameter in group["params"]
    }
    kinds = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert rates == {
        id(model.get_parameter(f"blocks.{i}.{kind}.weight")): pytest.approx(0.05 * scale)
        for i, scale in enumerate((0.25, 0.5))
        for kind in kinds
    }
    assert {group["weight_decay"] for group in optimizer.optimizers[1].param_groups} == {0.3}


def test_kernels_have_a_rate_of_their_own() -> None:
    model = create_model("vitc_compact_32", num_classes=3)
    optimizer = make_optimizer(
        model, name="muon", lr=0.01, weight_decay=0.3, muon_lr=0.05, kernel_lr=0.2
    )
    assert isinstance(optimizer, MuonAdamW)
    rates = {
        parameter.ndim: group["lr"]
        for group in optimizer.optimizers[1].param_groups
        for parameter in group["params"]
    }
    assert rates == {2: pytest.approx(0.05), 4: pytest.approx(0.2)}


@pytest.mark.parametrize(
    ("name", "some", "none"),
    [
        (
            "swinv2_tiny_window8_256",
            {"layers.0.blocks.0.attn.qkv.weight", "layers.1.downsample.reduction.weight"},
            ("cpb_mlp", "logit_scale", "patch_embed", "head", "norm", "bias"),
        ),
        ("swin_tiny_patch4_window7_224", {"layers.3.blocks.1.mlp.fc2.weight"}, ("table", "norm")),
        (
            "vit_base_r50_s16_224",
            {"blocks.11.mlp.fc1.weight", "patch_embed.backbone.stages.0.blocks.0.conv2.weight"},
            ("backbone.stem.conv", "pos_embed", "norm"),
        ),
        ("vitc_1gf_224", {"patch_embed.proj.weight"}, ("head", "pos_embed", "cls_token")),
        ("vit_tiny_patch16_224", {"blocks.0.attn.proj.weight"}, ("patch_embed", "cls_token")),
        (
            "cct_7_3x2_32",
            {"blocks.6.attn.qkv.weight", "tokenizer.convs.1.weight"},
            ("tokenizer.convs.0", "pool", "pos_embed"),
        ),
        ("resnet18", {"layer1.0.conv1.weight", "layer2.0.downsample.0.weight"}, ("fc", "bn")),
        ("regnety_002", {"s1.b1.conv1.conv.weight", "s1.b1.se.fc1.weight"}, ("conv2", "stem")),
        ("convnet_3_32", {"convs.1.conv.weight", "convs.2.conv.weight"}, ("convs.0", "head")),
    ],
)
def test_hidden_matrices(name: str, some: set[str], none: tuple[str, ...]) -> None:
    with torch.device("meta"):
        model = create_model(name)
    found = hidden_matrices(model)
    assert some <= found
    assert not [one for one in found for word in none if word in one]
    assert found <= set(dict(model.named_parameters()))


@pytest.mark.parametrize(("name", "lr"), [("adamw", 0.01), ("lamb", 0.02), ("muon", 0.01)])
@pytest.mark.parametrize("family", ["vit_tiny_patch16_224", "convnet_3_32"])
def test_every_optimizer_lowers_the_loss(name: Any, lr: float, family: str) -> None:
    torch.manual_seed(0)
    model = small(family) if family in MODELS else create_model(family, num_classes=3)
    x, labels = torch.randn(6, 3, 16, 16), torch.arange(6) % 3
    optimizer = make_optimizer(model, name=name, lr=lr, weight_decay=0.05)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_lamb_adapts_what_may_decay() -> None:
    model = small("swin_tiny_patch4_window7_224")
    optimizer = make_optimizer(model, name="lamb", lr=0.1, weight_decay=0.0)
    assert isinstance(optimizer, LAMB)
    adapted = {id(p) for group in optimizer.param_groups if group["adapt"] for p in group["params"]}
    kernels = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert adapted == kernels


@pytest.mark.parametrize(("given", "momentum"), [(None, 0.9), (0.5, 0.5)])
def test_sgd_adds_decay_to_the_gradient(given: float | None, momentum: float) -> None:
    """v = momentum v + g + decay w, then w = w - lr v, in float64 by hand."""
    model = small("vit_tiny_patch16_224").double()
    optimizer = make_optimizer(model, name="sgd", lr=0.1, weight_decay=0.3, momentum=given)
    weight, velocity = model.head.weight.detach().clone(), torch.zeros_like(model.head.weight)
    for _ in range(3):
        gradient = torch.randn_like(weight)
        model.head.weight.grad = gradient.clone()
        optimizer.step()
        velocity = momentum * velocity + gradient + 0.3 * weight
        weight = weight - 0.1 * velocity
    torch.testing.assert_close(model.head.weight.detach(), weight)


def test_what_cannot_be_optimised() -> None:
    model = small("vit_tiny_patch16_224")
    with pytest.raises(ConfigError, match="optimizer='adam' is unknown; choose adamw, lamb, sgd"):
        make_optimizer(model, name="adam", lr=0.1, weight_decay=0.3)  # type: ignore[arg-type]
    for decay in (0.0, 1.1, -1.0):
        with pytest.raises(ConfigError, match=rf"layer_decay={decay} is not in \(0, 1\]; try 0.75"):
            make_optimizer(model, name="adamw", lr=0.1, weight_decay=0.3, layer_decay=decay)
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="every parameter of the model is frozen"):
        make_optimizer(model, name="muon", lr=0.1, weight_decay=0.3)
