"""What of a model learns: heads alone, or low-rank adapters."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vitkit.errors import ConfigError
from vitkit.layers.lora import LoRALinear
from vitkit.models import create_model
from vitkit.models.backbone import Backbone
from vitkit.training import tune
from vitkit.training.ema import WeightAverage
from vitkit.training.optim import make_optimizer

VIT = {"image_size": 32, "patch_size": 16, "dim": 16, "depth": 2, "num_heads": 2}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": VIT | {"registers": 1, "drop_path": 0.5, "dropout": 0.2},
    "deit_tiny_distilled_patch16_224": VIT,
    "vit_base_r50_s16_224": VIT | {"depths": (1,)},
    "vit_base_resnet50_224": VIT | {"depths": (1, 1, 1, 1), "patch_size": 32},
    "cct_2_3x2_32": {"dim": 16, "drop_path": 0.0, "attention_dropout": 0.0},
    "swin_tiny_patch4_window7_224": {
        "image_size": 32, "dim": 8, "depths": (1, 2), "num_heads": (1, 2)
    },
    "swinv2_tiny_window8_256": {
        "image_size": 32, "dim": 8, "depths": (1, 1), "num_heads": (1, 2),
        "pretrained_window_sizes": (0, 0),
    },
}  # fmt: skip
MODELS = TRANSFORMERS | {"resnet18": {"dim": 8, "depths": (1, 1, 1, 1)}}


def small(name: str) -> Backbone:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, **MODELS[name])
    for parameter in model.parameters():  # new residual branches of SwinV2 would hide mistakes
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.2)
    return model


def learn(model: Backbone, steps: int = 3, name: Any = "adamw") -> None:
    optimizer = make_optimizer(model, name=name, lr=0.05, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    tune.set_training_mode(model)
    for _ in range(steps):
        x = torch.randn(6, 3, 32, 32, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(6) % 3).backward()
        optimizer.step()


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_lora_changes_nothing_at_first_and_then_only_adapters_and_heads(name: str) -> None:
    model = small(name).eval()
    before = copy.deepcopy(model.state_dict())
    expected = model(images())
    tune.lora(model, rank=2, mlp=True)
    assert torch.equal(model(images()), expected)
    learn(model)
    after = model.eval().state_dict()
    assert not torch.allclose(model(images()), expected, atol=1e-3)
    learned = [key for key in before if not torch.equal(before[key], after[key])]
    assert learned and all(key.startswith(model.classifiers) for key in learned)
    fresh = after.keys() - before.keys()
    assert fresh == {key for key in after if key.endswith(("lora_a", "lora_b"))}
    assert all(after[key].any() for key in fresh)


@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_merging_gives_a_plain_model_with_the_same_logits(name: str, mlp: bool) -> None:
    model = small(name)
    plain_keys = set(model.state_dict())
    original = copy.deepcopy(model.state_dict())
    tune.lora(model, rank=3, alpha=4.0, mlp=mlp)
    learn(model)
    model.eval()
    merged = tune.merge_lora(model)
    assert type(merged) is type(model) and not merged.training
    assert set(merged.state_dict()) == plain_keys
    assert not any(isinstance(m, LoRALinear) for m in merged.modules())
    assert all(p.requires_grad for p in merged.parameters())
    torch.testing.assert_close(merged(images()), model(images()), rtol=1e-5, atol=1e-5)
    plain = create_model(name, num_classes=3, **TRANSFORMERS[name])
    plain.load_state_dict(merged.state_dict())
    adapters = 0
    for key, tensor in merged.state_dict().items():
        layer = model.get_submodule(key.rpartition(".")[0])
        if isinstance(layer, LoRALinear) and key.endswith("weight"):
            change = 4.0 / 3 * (layer.lora_b @ layer.lora_a)
            torch.testing.assert_close(tensor, original[key] + change)
            adapters += 1
    blocks = sum(name.endswith("attn") for name, _ in merged.named_modules())
    assert adapters == blocks * (4 if mlp else 2)


def test_a_model_without_adapters_is_merged_already() -> None:
    model = small("vit_tiny_patch16_224")
    assert tune.merge_lora(model) is model


def test_adapted_weights_are_saved_averaged_and_loaded(tmp_path: Path) -> None:
    model = small("vit_tiny_patch16_224")
    tune.lora(model, rank=2)
    average = WeightAverage(model, 0.0)
    learn(model, name="muon")
    average.update(model, 0)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = small("vit_tiny_patch16_224")
    tune.lora(again, rank=2)
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    expected = model.eval()(images())
    assert torch.equal(again.eval()(images()), expected)
    torch.testing.assert_close(average.model(images()), expected)
    torch.testing.assert_close(tune.merge_lora(average.model)(images()), expected)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_adapters_learn_in_bfloat16(name: str) -> None:
    model = small(name)
    tune.lora(model, rank=2, mlp=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(model(images()).float(), torch.arange(4) % 3)
    loss.backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert not key.endswith("lora_b") or parameter.grad.any()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_what_learns_can_be_counted(name: str) -> None:
    model = small(name)
    whole = sum(p.numel() for p in model.parameters())
    assert tune.count_parameters(model) == (whole, whole)
    tune.head(model)
    head = sum(p.numel() for p in model.get_classifier().parameters())
    assert tune.count_parameters(model) == (head, whole)
    tune.lora(model, rank=2)
    layers = [m for m in model.modules() if isinstance(m, LoRALinear)]
    adapters = sum(2 * (layer.in_features + layer.out_features) for layer in layers)
    assert tune.count_parameters(model) == (head + adapters, whole + adapters)


@pytest.mark.parametrize("name", ["resnet18", "regnety_002", "convnet_3_32"])
def test_a_cnn_has_nothing_to_adapt(name: str) -> None:
    model = create_model(name, num_classes=3)
    with pytest.raises(ConfigError, match="has no attention for low-rank adapters; fine-tune"):
        tune.lora(model)
    assert all(p.requires_grad for p in model.parameters())


def test_what_cannot_be_tuned() -> None:
    model = small("vit_tiny_patch16_224")
    with pytest.raises(ConfigError, match="rank=17 is not between 1 and the layer's width, 16"):
        tune.lora(model, rank=17)
    assert all(p.requires_grad for p in model.parameters())
    tune.lora(model, rank=2)
    with pytest.raises(ConfigError, match="has low-rank adapters already"):
        tune.lora(model, rank=2)
    model.reset_classifier(0)
    with pytest.raises(ConfigError, match="num_classes=0 leaves no head to train"):
        tune.head(model)


@pytest.mark.parametrize("name", MODELS)
def test_a_linear_probe_changes_its_heads_only(name: str) -> None:
    model = small(name)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        features = model.eval().forward_features(images())
    tune.head(model)
    learn(model)
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    heads = {key for key in before if key.startswith(model.classifiers)}
    assert changed == heads and heads
    with torch.no_grad():
        assert torch.equal(model.forward_features(images()), features)  # nothing is dropped either


def test_what_is_frozen_stays_in_evaluation() -> None:
    model = small("vit_base_resnet50_224")
    tune.set_training_mode(model.eval())
    assert all(module.training for module in model.modules())
    tune.lora(model, rank=2)
    before = copy.deepcopy(dict(model.named_buffers()))
    learn(model)
    assert model.training and model.blocks[0].drop_path1.training and model.pos_drop.training
    assert not any(module.training for module in model.patch_embed.modules())
    assert all(torch.equal(before[key], now) for key, now in model.named_buffers())
