"""transformers' own models against ours made of their tensors, in both generations of names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from vitkit.models.vit import ViTConfig
from vitkit.weights.formats import detect, layout_for
from vitkit.weights.formats.huggingface_config import kind_of, read_config, write_config

VIT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": [32, 48],
    "patch_size": 8,
    "num_labels": 5,
}
DINO = {key: VIT[key] for key in VIT if key != "intermediate_size"}
DINO |= {"mlp_ratio": 2, "image_size": 32}
SWIN = {
    "image_size": 64,
    "embed_dim": 32,
    "depths": [2, 3],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 5,
}
RESNET = {"depths": [1, 2, 1, 1], "num_labels": 5}
BASIC = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
REGNET = {"hidden_sizes": [48, 104, 208, 440], "depths": [1, 3, 6, 6], "groups_width": 8}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", VIT),
    "vit tanh": ("ViT", VIT | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    "vit quick": ("ViT", VIT | {"hidden_act": "quick_gelu", "num_channels": 3}),
    "deit": ("DeiT", VIT),
    "deit distilled": ("DeiT", VIT),
    "dinov2": ("Dinov2", DINO),
    "dinov2 registers": ("Dinov2WithRegisters", DINO | {"num_register_tokens": 3}),
    "swin": ("Swin", SWIN),
    "swinv2": ("Swinv2", SWIN | {"pretrained_window_sizes": [6, 3]}),
    "resnet": ("ResNet", RESNET),
    "resnet basic": ("ResNet", RESNET | BASIC),
    "regnet": ("RegNet", REGNET | {"embedding_size": 32, "num_labels": 5}),
}


def make(name: str) -> Any:
    """Their model, and what its `config.json` says."""
    family, settings = MODELS[name]
    suffix = "WithTeacher" if name == "deit distilled" else ""
    config = getattr(hf, f"{family}Config")(**settings)
    config.architectures = [f"{family}ForImageClassification{suffix}"]
    return getattr(hf, config.architectures[0])(config)


def size_of(name: str) -> tuple[int, int]:
    size = MODELS[name][1].get("image_size", 64)
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@pytest.mark.parametrize("name", MODELS)
def test_logits(
    name: str,
    randomised: Callable[[nn.Module], nn.Module],
    translate: Callable[..., Any],
    same_logits: Callable[..., None],
) -> None:
    theirs = randomised(make(name))
    ours, layout = translate(theirs.state_dict(), theirs=theirs.config.to_dict())
    assert layout.source == "huggingface"
    tolerance_of_registers = name == "dinov2 registers"  # two of their float32 tensors are added
    if tolerance_of_registers:
        x = torch.randn(2, 3, *size_of(name))
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x).logits, rtol=1e-4, atol=1e-5)
    else:
        same_logits(ours, theirs, size_of(name))


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(
    name: str, randomised: Callable[[nn.Module], nn.Module], translate: Callable[..., Any]
) -> None:
    """Ours written, read again: bit-identical, and transformers opens it."""
    theirs = randomised(make(name))
    ours, _ = translate(theirs.state_dict(), theirs=theirs.config.to_dict())
    written = layout_for("huggingface", ours.config).write(ours.state_dict(), ours.config)
    layout = detect(written)
    again, left = layout.read(written)
    assert layout.source == "huggingface" and not left
    assert again.keys() == ours.state_dict().keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in ours.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_config_round_trip(name: str, translate: Callable[..., Any]) -> None:
    theirs = make(name)
    ours, _ = translate(theirs.state_dict(), theirs=theirs.config.to_dict())
    written = write_config(ours.config, ["a", "b", "c", "d", "e"])
    family, settings = read_config(written)
    assert family is type(ours.config)
    for key, value in settings.items():
        given = getattr(ours.config, key)
        assert given == (tuple(value) if isinstance(value, list) else value), key
    assert written["id2label"] == dict(zip("01234", "abcde", strict=True))
    assert written["model_type"] == kind_of(ours.config).partition(" ")[0]


def test_a_prefix_may_be_absent(
    randomised: Callable[[nn.Module], nn.Module], translate: Callable[..., Any]
) -> None:
    """A model saved without its head has no `vit.` in its names, and a pooler that nobody uses."""
    theirs = randomised(hf.ViTModel(hf.ViTConfig(**VIT)))
    ours, _ = translate(theirs.state_dict(), theirs=theirs.config.to_dict())
    assert ours.num_classes == 0
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        expected = theirs(x).last_hidden_state
        torch.testing.assert_close(ours.forward_features(x), expected, rtol=1e-4, atol=1e-4)


def test_older_names_are_read(
    randomised: Callable[[nn.Module], nn.Module], translate: Callable[..., Any]
) -> None:
    theirs = randomised(make("vit"))
    ours, _ = translate(theirs.state_dict(), theirs=theirs.config.to_dict())
    older = {}
    for key, tensor in theirs.state_dict().items():
        key = key.replace("vit.layers.", "vit.encoder.layer.")
        for new, old in (
            (".attention.q_proj", ".attention.attention.query"),
            (".attention.k_proj", ".attention.attention.key"),
            (".attention.v_proj", ".attention.attention.value"),
            (".attention.o_proj", ".attention.output.dense"),
            (".mlp.fc1", ".intermediate.dense"),
            (".mlp.fc2", ".output.dense"),
        ):
            key = key.replace(new, old)
        older[key] = tensor
    again, layout = translate(older, theirs=theirs.config.to_dict())
    assert "encoder.layer" in layout.table
    for key, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "silu"}, "hidden_act='silu' is not among gelu"),
        ({"qkv_bias": False}, "qkv_bias=False is a model that vitkit does not have"),
        ({"patch_size": [8, 4]}, "not square"),
        ({"model_type": "beit"}, "model_type='beit' is not among vit"),
    ],
)
def test_models_that_we_do_not_have(changes: dict[str, Any], message: str) -> None:
    theirs = make("vit").config.to_dict()
    with pytest.raises(ValueError, match=message):
        read_config(theirs | changes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("swin", {"hidden_act": "relu"}),
        ("swin", {"layer_norm_eps": 1e-2}),
        ("swinv2", {"hidden_act": "gelu_new"}),
        ("resnet", {"downsample_in_first_stage": True}),
        ("resnet", {"hidden_act": "gelu"}),
        ("regnet", {"hidden_act": "gelu"}),
        ("regnet", {"layer_type": "x"}),
    ],
)
def test_what_would_change_the_logits_is_refused(name: str, changes: dict[str, Any]) -> None:
    key, value = next(iter(changes.items()))
    with pytest.raises(ValueError, match=f"{key}={value} is a model that vitkit does not have"):
        read_config(make(name).config.to_dict() | changes)


def test_a_model_that_they_do_not_have() -> None:
    with pytest.raises(ValueError, match="transformers has no ViT with"):
        kind_of(ViTConfig(layer_scale=0.1))


def test_their_dinov2_takes_every_grid_for_a_square() -> None:
    config = ViTConfig(image_size=(32, 48), pool="cls_mean", layer_scale=1.0)
    with pytest.raises(ValueError, match="image_size=.32, 48. is not square"):
        write_config(config, [])
