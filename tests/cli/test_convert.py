"""`vitkit convert`: what it writes, and what it says of every tensor."""

import json
from pathlib import Path

import pytest
import torch
import transformers

import vitkit

CLASSES = ["blue", "green", "red"]


@pytest.fixture
def huggingface(tmp_path: Path) -> Path:
    """A small ViT of transformers', saved by itself, with a pooler that nobody uses."""
    config = transformers.ViTConfig(
        hidden_size=192,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=64,
        id2label=dict(enumerate(CLASSES)),
    )
    torch.manual_seed(0)
    directory = tmp_path / "theirs"
    transformers.ViTForImageClassification(config).save_pretrained(directory)
    return directory


def test_into_ours_and_another_size(vitkit_command, huggingface: Path, tmp_path: Path) -> None:
    result = vitkit_command("convert", huggingface, tmp_path / "ours", "--image-size", "96x64")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == f"weights   {huggingface}: vit_tiny_patch16_224 in huggingface's layout"
    assert lines[1] == "follows   norm_eps=1e-12, as the weights were trained"
    assert lines[2].startswith("kept ") and "pos_embed" in lines[3]
    assert lines[3].endswith("1x17x192 -> 1x25x192  4x4 -> 6x4, bicubic")
    assert lines[-1] == f"written   {tmp_path / 'ours'}, as vitkit has it"
    classifier = vitkit.load(tmp_path / "ours")
    assert classifier.classes == CLASSES and classifier.preprocess.image_size == (96, 64)


def test_json(vitkit_command, huggingface: Path, tmp_path: Path) -> None:
    result = vitkit_command(
        "convert",
        huggingface,
        tmp_path / "x.pth",
        "--to",
        "torchvision",
        "--num-classes",
        5,
        "--json",
    )
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["source"] == "huggingface" and found["architecture"] == "vit_tiny_patch16_224"
    new = [row["name"] for row in found["tensors"] if row["action"] == "new"]
    assert new == ["head.weight", "head.bias"]
    assert set(found) == {"source", "architecture", "guessed", "to", "destination", "tensors"}
    assert torch.load(tmp_path / "x.pth", weights_only=True)["heads.head.weight"].shape == (5, 192)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "torch"], "--to torch is unknown, did you mean 'torchvision'"),
        (["--image-size", "big"], "image_size='big' is no size; write 384 or 160x224"),
        (["--image-size", "60"], "image_size=60 is not a multiple of patch_size=16; try 48 or 64"),
        (["--format", "google"], "no layout that we know has names such as"),
        (["--model", "resnet18"], "weights do not"),
    ],
)
def test_mistakes(
    vitkit_command, huggingface: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = vitkit_command("convert", huggingface, tmp_path / "new", *arguments)
    assert result.code == 2 and message in result.err
    assert result.err.count("\n") == 1 and not (tmp_path / "new").exists()
