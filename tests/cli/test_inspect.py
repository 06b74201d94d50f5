"""`vitkit inspect`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import vitkit
from vitkit.cli.inspect import one_each
from vitkit.models import create_model
from vitkit.weights import store

VIT, SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
SETTINGS = {
    "image_size": (32, 48), "patch_size": 8, "dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5
}  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint directory of a small ViT whose positions are computed."""
    model = create_model(VIT, position="sincos_2d", **SETTINGS)
    store.save(tmp_path, model, architecture=VIT, classes=list("abcde"), preprocess={})
    return tmp_path


def rewrite(saved: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, saved / "model.safetensors")


def rows(out: str, start: str) -> list[list[str]]:
    """The words of the lines after the one that starts so, up to an empty one."""
    lines = out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip().startswith(start))
    end = lines.index("", first) if "" in lines[first:] else len(lines)
    return [line.split() for line in lines[first + 1 : end]]


def test_the_screen(vitkit_command) -> None:
    done = vitkit_command("inspect", VIT)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"{VIT}  5,717,416 parameters, 1.25 GMACs  arXiv:2010.11929"
    assert "with C=3 p=16 P=1 N=196 D=192 L=12 M=768 K=1,000" in lines
    attention = next(line for line in lines if line.startswith("  attention, 12 blocks"))
    assert attention.split()[3:-2] == ["L*(4*D^2", "+", "4*D)", "1,778,688"]
    assert attention.split()[-2] == "31.1%"
    total, counted = (next(x for x in lines if x.startswith(w)) for w in ("sum", "in the model"))
    assert total.split()[-1] == "5,717,416"
    assert counted.split()[3:] == ["5,717,416", "✓", "equal"]
    assert "attention scores   12 x 116,427 = 1,397,124" in lines
    assert "N patches" in done.out and "heads" not in done.out  # only what is read
    assert all(len(line) <= 100 for line in lines)
    assert not [line for line in lines if line != line.rstrip()]
    assert "\x1b" not in done.out


def test_parts_and_shares_sum_up(vitkit_command) -> None:
    done = vitkit_command("inspect", SWIN)
    parts = [line for line in done.out.splitlines() if line.startswith("  ") and "%" in line]
    numbers = [line.split("%")[0].rsplit(maxsplit=2)[-2:] for line in parts]
    assert len(numbers) == 23
    assert sum(int(number.replace(",", "")) for number, _ in numbers) == 28_288_354
    assert sum(float(share) for _, share in numbers) == pytest.approx(100, abs=1)
    assert "attention scores   2 x 460,992 + 2 x 230,496 + 6 x 115,248 + 2 x 57,624" in done.out


def test_a_model_without_attention(vitkit_command) -> None:
    done = vitkit_command("inspect", "convnet_3_32", "--image-size", "32,64")
    assert done.code == 0
    for word in ("token", "attention", "quadratic", "patch"):
        assert word not in done.out
    assert [row[0] for row in rows(done.out, "image  ")] == ["32x32", "64x64"]


def test_json(vitkit_command) -> None:
    done = vitkit_command("inspect", SWIN, "--json")
    assert (done.code, done.err) == (0, "")
    given = json.loads(done.out)
    assert given["name"] == SWIN and given["checkpoint"] is None
    assert given["parameters"] == given["derived"] == 28_288_354
    assert sum(part["parameters"] for part in given["parts"]) == 28_288_354
    for part in given["parts"]:
        assert part.keys() == {"part", "formula", "symbols", "parameters"}
        value = eval(part["formula"].replace("^", "**"), {}, part["symbols"])
        assert value == part["parameters"]
    assert given["parts"][2]["part"] == "stage 1: attention"
    assert given["image_size"] == [224, 224] and given["patch_size"] == 4
    assert given["tokens"] == 3136 and len(given["scores"]) == 12
    assert given["macs"] / 1e9 == pytest.approx(4.51, rel=0.01)
    assert given["side_by_side"] == []


SIZES: list[list[str]] = [
    ["--patch-size", "8", "16", "32", "--image-size", "224", "160x224"],
    ["--image-size", "224", "160x224", "--patch-size", "8", "16", "32"],
    ["--patch-size", "8,16,32", "--image-size", "224,160x224"],
    ["--patch-size=8", "16", "32", "--image-size=224", "160x224"],
    [
        *("--patch-size", "8", "--patch-size", "16", "--patch-size", "32"),
        *("--image-size", "224", "--image-size", "160X224"),
    ],
]


@pytest.mark.parametrize("sizes", SIZES, ids=" ".join)
def test_side_by_side(vitkit_command, sizes: list[str]) -> None:
    """Lists are written in any of these ways, before or after the model."""
    done = vitkit_command("inspect", VIT, *sizes, "--json")
    assert vitkit_command("inspect", "--json", *sizes, VIT) == done
    given = json.loads(done.out)
    assert (given["image_size"], given["patch_size"]) == ([224, 224], 16)  # its own comes first
    sizes_of_rows = [(row["patch_size"], row["image_size"]) for row in given["side_by_side"]]
    both = ([224, 224], [160, 224])
    assert sizes_of_rows == [(patch, size) for patch in (8, 16, 32) for size in both]
    for row in given["side_by_side"]:
        height, width = row["image_size"]
        tokens = 1 + height // row["patch_size"] * (width // row["patch_size"])
        assert row["tokens"] == tokens
        assert row["attention_bytes"] == 4 * sum(row["scores"]) == 4 * 12 * 3 * tokens**2
    assert given["side_by_side"][2]["macs"] == given["macs"]


def test_side_by_side_on_the_screen(vitkit_command) -> None:
    done = vitkit_command("inspect", VIT, "--patch-size", "16", "32", "--image-size", "224")
    table = rows(done.out, "image   patch")
    assert [row[:4] for row in table] == [
        ["224x224", "16", "197", "5,717,416"],
        ["224x224", "32", "50", "6,131,560"],
    ]
    assert table[0][4:8] == ["1.25", "G", "178.83", "M"]
    assert all(len(line) <= 100 for line in done.out.splitlines())


def test_one_size_is_the_models_own(vitkit_command) -> None:
    given = json.loads(vitkit_command("inspect", VIT, "--image-size", "384", "--json").out)
    assert given["image_size"] == [384, 384] and given["tokens"] == 577
    more = (24**2 - 14**2) * 192  # positions
    assert given["parameters"] == given["derived"] == 5_717_416 + more
    assert given["side_by_side"] == []


@pytest.mark.parametrize("as_file", [False, True])
def test_a_checkpoint(vitkit_command, saved: Path, as_file: bool) -> None:
    """Its numbers are counted in the file; a table that is computed does not count."""
    place = saved / "model.safetensors" if as_file else saved
    done = vitkit_command("inspect", place, "--json")
    assert done.code == 0
    given = json.loads(done.out)
    model = store.load(saved).build()
    assert given["name"] == VIT and given["checkpoint"] == str(place)
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert given["parameters"] == given["derived"] == expected
    assert given["image_size"] == [32, 48] and given["tokens"] == 25
    shown = vitkit_command("inspect", place, "--image-size", "64")
    assert "in the file" in shown.out and "✓ equal" in shown.out
    assert [row[0] for row in rows(shown.out, "image   patch")] == ["64x64"]


def test_a_checkpoint_that_holds_something_else(vitkit_command, saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    rewrite(saved, {**tensors, "head.bias": torch.zeros(8)})
    done = vitkit_command("inspect", saved)
    assert done.code == 1
    assert "✗ +3" in done.out
    given = json.loads(vitkit_command("inspect", saved, "--json").out)
    assert given["parameters"] == given["derived"] + 3


def test_a_run(vitkit_command, finished: vitkit.Run) -> None:
    done = vitkit_command("inspect", finished.directory)
    assert (done.code, done.err) == (0, "")
    assert "✓ equal" in done.out and str(finished.directory / "best") in done.out


def test_no_model_is_built_in_memory(
    vitkit_command, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitkit.models import build

    def watched(config: Any) -> torch.nn.Module:
        model = build(config)
        assert all(parameter.is_meta for parameter in model.parameters())
        return model

    monkeypatch.setattr("vitkit.models.cost.build", watched)
    monkeypatch.setattr("vitkit.weights.store.build", watched)
    assert vitkit_command("inspect", saved).code == 0


def test_a_weights_file_of_a_named_model(vitkit_command, tmp_path: Path) -> None:
    """The file's name is a model's, too."""
    path = tmp_path / "resnet18.pth"
    torch.save(create_model("resnet18", num_classes=3).state_dict(), path)
    done = vitkit_command("inspect", path, "--json")
    given = json.loads(done.out)
    assert given["parameters"] == given["derived"] == 11_178_051


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit_tiny_patch16_225"], "no model, did you mean 'vit_tiny_patch16_224'?"),
        (["somewhere/absent"], "'somewhere/absent' is no checkpoint and no model"),
        ([VIT, "--image-size", "225"], "image_size=225 is not a multiple of patch_size=16; try"),
        ([VIT, "--image-size", "2x2x2"], "image_size='2x2x2' is no size"),
        ([VIT, "--image-size", "big"], "image_size='big' is no size"),
        ([VIT, "--image-size", "0"], "image_size=0 is not between 1 and"),
        ([VIT, "--patch-size", "16x16"], "patch_size='16x16' is no number of pixels"),
        ([VIT, "--patch-size", "--json"], "patch_size='--json' is no number of pixels"),
        ([VIT, "--patch-size"], "'--patch-size' requires an argument"),
        ([VIT, "224"], "(224); see vitkit inspect --help"),
        (["resnet18", "--patch-size", "8"], "cuts no patches; leave --patch-size out"),
        ([VIT, "--model", VIT], f"names a model itself; leave --model={VIT} out"),
        ([], "Missing argument"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(vitkit_command, arguments: list[str], message: str) -> None:
    done = vitkit_command("inspect", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "spread"),
    [
        ("inspect m --image-size 1 2 --json", "inspect m --image-size 1 --image-size 2 --json"),
        ("inspect --image-size 1 2 m 3", "inspect --image-size 1 --image-size 2 m 3"),
        ("inspect --image-size=1 2", "inspect --image-size=1 --image-size 2"),
        ("inspect --image-size big 2", "inspect --image-size big --image-size 2"),
        ("inspect --model 1 2", "inspect --model 1 2"),
        ("inspect --patch-size 1 -- 2", "inspect --patch-size 1 -- 2"),
        ("inspect --patch-size", "inspect --patch-size"),
    ],
)
def test_one_each(arguments: str, spread: str) -> None:
    assert one_each(arguments.split()) == spread.split()
