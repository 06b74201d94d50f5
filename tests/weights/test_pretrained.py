"""`create_model` with weights to start from: adapted, and accounted for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import vitkit
from vitkit.errors import ConfigError, WeightsError
from vitkit.models import create_model as new_model
from vitkit.weights import store

VIT = "vit_tiny_patch16_224"


@pytest.fixture
def checkpoint(tmp_path: Path, randomised: Callable[[nn.Module], nn.Module]) -> Path:
    """A ViT-Ti of one block for seven classes."""
    model = randomised(new_model(VIT, depth=1, num_classes=7))
    store.save(
        tmp_path,
        model,  # type: ignore[arg-type]
        architecture=VIT,
        classes=list("abcdefg"),
        preprocess={"input_size": [3, 224, 224]},
    )
    return tmp_path


def create(**settings: Any) -> tuple[nn.Module, str]:
    """A model, and what was said of it."""
    said: list[str] = []
    model = vitkit.create_model(VIT, depth=1, report=said.append, **settings)
    return model, "\n".join(said)


def test_without_weights() -> None:
    model, said = create(num_classes=None)
    assert model.num_classes == 1000 and said == ""


def test_as_it_is(checkpoint: Path) -> None:
    model, said = create(init=checkpoint)
    stored = store.load(checkpoint)
    assert model.num_classes == 7
    assert all(torch.equal(t, model.state_dict()[k]) for k, t in stored.tensors.items())
    lines = said.splitlines()
    assert lines[0].endswith(f"{checkpoint}: {VIT} in vitkit's layout")
    assert lines[1].startswith("kept ") and len(lines) == 2


def test_another_size(checkpoint: Path) -> None:
    model, said = create(init=checkpoint, num_classes=3, image_size=(96, 160), in_channels=1)
    assert model(torch.zeros(2, 1, 96, 160)).shape == (2, 3)
    assert "pos_embed" in said and "14x14 -> 6x10, bicubic_antialias" in said
    assert "3 channels summed" in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("new")] == [
        "head.weight",
        "head.bias",
    ]


def test_numerics_follow_the_weights(
    tmp_path: Path, randomised: Callable[[nn.Module], nn.Module]
) -> None:
    """LayerNorm's eps and GELU's form are theirs, and so are the logits; positions their way."""
    config = transformers.ViTConfig(
        hidden_size=192,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=768,
        hidden_act="gelu_new",
        num_labels=4,
    )
    theirs = randomised(transformers.ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    model, said = create(init=tmp_path)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x).logits, rtol=1e-4, atol=1e-4)
    assert "norm_eps=1e-12, activation=gelu_tanh, as the weights were trained" in said
    larger, said = create(init=tmp_path, image_size=320)
    assert "14x14 -> 20x20, bicubic\n" in said + "\n"
    x = torch.randn(1, 3, 320, 320)
    with torch.no_grad():
        expected = theirs(x, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(larger(x), expected, rtol=1e-3, atol=1e-3)


def test_printed_where_nobody_listens(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vitkit.create_model(VIT, depth=1, init=checkpoint)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("weights ") and "kept" in err


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        (
            "resnet18",
            {},
            ConfigError,
            "weights are of vit_tiny_patch16_224, which is no kind of re",
        ),
        ("vit_small_patch16_224", {"depth": 1}, WeightsError, r"cls_token has shape \(1, 1, 192\)"),
        (VIT, {"depth": 2}, WeightsError, r"blocks\.1\.norm1\.weight is missing"),
        (VIT, {"depth": 1, "image_size": 225}, ConfigError, "image_size=225 is not a multiple"),
        (VIT, {"depht": 1}, ConfigError, "has no setting 'depht', did you mean 'depth'"),
    ],
)
def test_weights_that_do_not_fit(
    checkpoint: Path, name: str, settings: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        vitkit.create_model(name, init=checkpoint, **settings)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(vitkit.CheckpointError, match="nothing.pth"):
        vitkit.create_model(VIT, init=tmp_path / "nothing.pth")


def test_offsets_of_swinv2_keep_their_scale(tmp_path: Path) -> None:
    """A last stage of 7 x 7 tokens has windows of 7, and offsets as learned with windows of 8."""
    name = "swinv2_tiny_window8_256"
    settings = {"depths": (1, 1, 1, 1), "num_classes": 3}
    model = new_model(name, **settings)  # type: ignore[arg-type]
    described = {"input_size": [3, 256, 256]}
    store.save(tmp_path, model, architecture=name, classes="abc", preprocess=described)
    smaller = vitkit.create_model(name, init=tmp_path, image_size=224, report=lambda text: None)
    assert smaller.config.pretrained_window_sizes == (0, 0, 0, 8)  # type: ignore[attr-defined]
