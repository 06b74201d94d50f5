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


def test_other_channels_can_be_loaded(vitkit_command, huggingface: Path, tmp_path: Path) -> None:
    done = vitkit_command("convert", huggingface, tmp_path / "grey", "--in-channels", 1)
    assert done.code == 0 and "3 channels summed" in done.out
    assert vitkit.load(tmp_path / "grey").preprocess.channels == 1


def test_a_size_that_the_file_does_not_say(
    vitkit_command, huggingface: Path, tmp_path: Path
) -> None:
    """2 x 8 patches are as many as 4 x 4."""
    wide = tmp_path / "wide.pth"
    arguments = ("--image-size", "32x128", "--to", "torchvision")
    assert vitkit_command("convert", huggingface, wide, *arguments).code == 0
    guessed = vitkit_command("convert", wide, tmp_path / "a")
    assert "guessed   image_size=64x64, a square" in guessed.out
    unsure = vitkit_command("convert", wide, tmp_path / "b", "--image-size", "32x128")
    assert unsure.code == 2 and "say it with --source-size" in unsure.err
    told = vitkit_command("convert", wide, tmp_path / "c", "--source-size", "32x128")
    assert told.code == 0 and "image_size" not in told.out
    assert vitkit.load(tmp_path / "c").preprocess.image_size == (32, 128)


def test_numerics_that_are_lost_are_said(vitkit_command, huggingface: Path, tmp_path: Path) -> None:
    done = vitkit_command("convert", huggingface, tmp_path / "x", "--to", "timm")
    assert "changed   norm_eps=1e-12 becomes 1e-06, which is all that timm has here" in done.out


def test_a_temperature_that_is_lost_is_said(
    vitkit_command, huggingface: Path, tmp_path: Path
) -> None:
    ours = tmp_path / "ours"
    assert vitkit_command("convert", huggingface, ours).code == 0
    described = json.loads((ours / "config.json").read_text("utf-8"))
    described["vitkit"]["temperature"] = 0.5
    (ours / "config.json").write_text(json.dumps(described))
    done = vitkit_command("convert", ours, tmp_path / "x", "--to", "timm")
    assert "changed   temperature=0.5 is left out: divide the logits by it yourself" in done.out
