"""Settings that are known to fail: when there is a line about them, and that its remedy helps."""

from typing import Any

import pytest

from vitkit.models import find_config
from vitkit.training.config import resolve
from vitkit.training.doubts import doubts

VIT = {"model.name": "vit_tiny_patch16_224"}
DISTILLED = {"model.name": "deit_tiny_distilled_patch16_224"}
PROBE = {"tune": "head", "optimizer": "sgd"}


def lines(images: int = 10_000, **given: Any) -> list[str]:
    settings = resolve({**VIT, **given}).settings
    config = find_config(settings.architecture, **settings.config_overrides)
    return doubts(settings, config, images)


@pytest.mark.parametrize(
    ("given", "beginning"),
    [
        ({"model.num_heads": 12}, "model.num_heads=12 leaves heads a width of 16, and they need"),
        ({"lr": 1e-2}, "lr=0.01 is more than adamw bears: transformers stop learning at 0.01"),
        ({"lr": 3e-2, "optimizer": "muon"}, "lr=0.03 is more than muon bears"),
        ({"lr": 10.0, "optimizer": "sgd"}, "lr=10 is more than sgd bears"),
        ({"model.name": "resnet18", "lr": 10.0, "optimizer": "sgd"}, "lr=10 is more than sgd"),
        ({"layer_decay": 0.75}, "layer_decay=0.75 is for weights that have learned before; give"),
        ({"minutes": 0.1, "batch_size": 1024, "threads": 1}, "minutes=0.1 are about "),
        ({"batch_size": 6, "accumulate": 4, "mix.mixup": 0.8}, "batch_size=6 leaves parts of one"),
        ({"batch_size": 10_001}, "batch_size=10001 makes an epoch of 10,000 images one step"),
        ({"tune": "head"}, "tune=head leaves a model at its random weights; give --init CKPT"),
        ({"tune": "lora"}, "tune=lora leaves a model at its random weights; give --init CKPT"),
        (
            {"model.name": "swin_tiny_patch4_window7_224", "model.num_heads": [3, 12, 12, 24]},
            "model.num_heads=[3,12,12,24] leaves heads a width of 16, and they need 32; try "
            "model.num_heads=[3,6,12,24]",
        ),
        (DISTILLED, "deit_tiny_distilled_patch16_224 has a head for a teacher; give one by"),
    ],
)
def test_each_gets_a_line(given: dict[str, Any], beginning: str) -> None:
    (line,) = lines(**given)
    assert line.startswith(beginning)
    assert len(line) < 112  # that of a Swin; else a line of a terminal
    assert "\n" not in line


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"model.num_heads": 6},  # 32 wide
        {"model.dim": 24, "model.num_heads": 1},  # there is no fewer
        {"model.num_heads": 12, "init": "published"},  # heads are as they were trained
        {"model.name": "resnet18", "lr": 0.1, "optimizer": "sgd"},
        {"model.name": "resnet18", "lr": 0.01, "optimizer": "adamw"},
        {"batch_size": 8, "accumulate": 4, "mix.mixup": 0.8},
        {"layer_decay": 0.75, "init": "published"},
        {"minutes": 100, "batch_size": 64, "threads": 1},
        {"lr": 1e-2, "optimizer": "muon"},
        {"lr": 5e-3},
        {"lr": 1e-2, "tune": "head", "init": "published"},
        {"batch_size": 10_000},
        {**PROBE, "init": "published"},
        {**DISTILLED, "distill.teacher": "teacher"},
        {**DISTILLED, "init": "published"},
        {"model.name": "swin_tiny_patch4_window7_224"},
        {"recipe": "deit"},
        {"recipe": "small"},
        {"recipe": "cnn", "model.name": "resnet18"},
        {"recipe": "deit3", "model.name": "deit3_small_patch16_224"},
    ],
)
def test_what_is_fine_gets_none(given: dict[str, Any]) -> None:
    assert lines(**given) == []


def test_images_that_nobody_counted_are_not_doubted() -> None:
    assert not lines(0)


def test_two_mistakes_get_two_lines() -> None:
    assert len(lines(**{"lr": 0.1, "batch_size": 200}, images=100)) == 2


@pytest.mark.parametrize(("dim", "heads"), [(192, 12), (100, 25), (96, 4), (90, 6), (40, 4)])
def test_the_number_of_heads_that_is_advised_makes_a_model(dim: int, heads: int) -> None:
    (line,) = lines(**{"model.dim": dim, "model.num_heads": heads})
    advised = int(line.rpartition("=")[2])
    assert advised < heads
    assert dim // advised >= 32
    assert lines(**{"model.dim": dim, "model.num_heads": advised}) == []


@pytest.mark.parametrize(("images", "batch"), [(60, 128), (5, 8), (1, 2)])
def test_the_batch_that_is_advised_makes_steps(images: int, batch: int) -> None:
    (line,) = lines(images, batch_size=batch)
    advised = int(line.rpartition("=")[2])
    assert lines(images, batch_size=advised) == []
    assert -(-images // advised) >= min(images, 8)
