"""Weights for a model of another size, and the account of every tensor."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.models import build, find_config
from vitkit.models.backbone import Config
from vitkit.weights.adapt import adapt

TINY = {"image_size": (32, 48), "patch_size": 8, "dim": 32, "depth": 1, "num_heads": 2}
VIT = find_config("vit_tiny_patch16_224", num_classes=3, **TINY)
SWIN = find_config(
    "swin_tiny_patch4_window7_224",
    num_classes=3,
    image_size=64,
    dim=16,
    depths=(1, 1),
    num_heads=(1, 2),
    window_size=4,
)


def weights(config: Config) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = build(config)
    return {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}


def actions(adapted: Any) -> dict[str, list[str]]:
    kinds = ("kept", "resized", "new", "ignored")
    return {kind: [change.name for change in adapted.of(kind)] for kind in kinds}


def test_nothing_changes() -> None:
    tensors = weights(VIT)
    adapted = adapt(tensors, VIT, VIT)
    assert adapted.tensors.keys() == tensors.keys()
    assert all(adapted.tensors[name] is tensor for name, tensor in tensors.items())
    assert actions(adapted) == {"kept": list(tensors), "resized": [], "new": [], "ignored": []}
    assert str(adapted).startswith(f"kept      {len(tensors)} tensors, ")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("bicubic_antialias", {"mode": "bicubic", "antialias": True}),
        ("bicubic", {"mode": "bicubic", "align_corners": False}),
        ("bicubic_corners", {"mode": "bicubic", "align_corners": True}),
        ("linear_corners", {"mode": "bilinear", "align_corners": True}),
    ],
)
def test_positions(method: Any, options: dict[str, Any]) -> None:
    tensors = weights(VIT)
    target = replace(VIT, image_size=(64, 40))
    adapted = adapt(tensors, VIT, target, resize=method)
    assert actions(adapted)["resized"] == ["pos_embed"]
    image = tensors["pos_embed"][:, 1:].reshape(1, 4, 6, 32).permute(0, 3, 1, 2)
    expected = F.interpolate(image, size=(8, 5), **options).flatten(2).mT
    torch.testing.assert_close(adapted.tensors["pos_embed"][:, 1:], expected)
    assert torch.equal(adapted.tensors["pos_embed"][:, :1], tensors["pos_embed"][:, :1])
    (change,) = adapted.of("resized")
    assert (change.before, change.after) == ((1, 25, 32), (1, 41, 32))
    assert str(change).endswith(f"1x25x32 -> 1x41x32  4x6 -> 8x5, {method}")


def test_a_grid_of_as_many_cells_is_another_grid() -> None:
    """4 x 6 and 6 x 4 have the same shape, and another meaning."""
    tensors = weights(VIT)
    target = replace(VIT, image_size=(48, 32))
    adapted = adapt(tensors, VIT, target)
    assert actions(adapted)["resized"] == ["pos_embed"]
    assert not torch.equal(adapted.tensors["pos_embed"], tensors["pos_embed"])
    with pytest.raises(WeightsError, match="pos_embed may be of a grid of 4x6 or 6x4"):
        adapt(tensors, VIT, target, sure=False)


def test_fewer_channels() -> None:
    tensors = weights(VIT)
    adapted = adapt(tensors, VIT, replace(VIT, in_channels=1))
    kernel = tensors["patch_embed.proj.weight"]
    torch.testing.assert_close(adapted.tensors["patch_embed.proj.weight"][:, 0], kernel.sum(1))


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_other_channels_answer_to_grey_alike(channels: int) -> None:
    """An image whose channels are all the same gives what it gave."""
    tensors = weights(VIT)
    adapted = adapt(tensors, VIT, replace(VIT, in_channels=channels))
    kernel = adapted.tensors["patch_embed.proj.weight"]
    assert kernel.shape == (32, channels, 8, 8)
    first = tensors["patch_embed.proj.weight"]
    assert torch.equal(kernel[:, 1], first[:, 1] * (3 / channels))
    if channels % 3 == 0:
        torch.testing.assert_close(kernel.sum(1), first.sum(1))


def test_classes() -> None:
    tensors = weights(VIT)
    adapted = adapt(tensors, VIT, replace(VIT, num_classes=7))
    assert actions(adapted)["new"] == ["head.weight", "head.bias"]
    assert "head.weight" not in adapted.tensors
    without = adapt(tensors, VIT, replace(VIT, num_classes=0))
    assert actions(without)["ignored"] == ["head.weight", "head.bias"]
    headless = {name: t for name, t in tensors.items() if not name.startswith("head")}
    again = adapt(headless, replace(VIT, num_classes=0), VIT)
    assert actions(again)["new"] == ["head.weight", "head.bias"]


def test_both_heads_of_a_distilled_model() -> None:
    config = find_config("deit_tiny_distilled_patch16_224", num_classes=3, **TINY)
    adapted = adapt(weights(config), config, replace(config, num_classes=5))
    names = [f"{head}.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")]
    assert actions(adapted)["new"] == names


def test_the_last_norm_of_another_pool() -> None:
    tensors = weights(VIT)
    adapted = adapt(tensors, VIT, replace(VIT, pool="mean"))
    assert torch.equal(adapted.tensors["fc_norm.weight"], tensors["norm.weight"])
    assert "was norm.weight" in [change.reason for change in adapted.changes]


def test_windows() -> None:
    """A table for windows of 4 tokens becomes one for 8, as bicubic interpolation has it."""
    tensors = weights(SWIN)
    adapted = adapt(tensors, SWIN, replace(SWIN, window_size=8))
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    table = tensors[name].T.reshape(1, 2, 7, 7)
    expected = F.interpolate(table, size=(15, 15), mode="bicubic").flatten(2)[0].T
    torch.testing.assert_close(adapted.tensors[name], expected)
    assert [change.reason for change in adapted.of("resized")] == ["window 4 -> 8, bicubic"] * 2


def test_fixed_positions_are_computed() -> None:
    target = replace(VIT, position="sincos_2d")
    tensors = {name: t for name, t in weights(VIT).items() if name != "pos_embed"}
    adapted = adapt(tensors, target, target)
    assert actions(adapted)["new"] == ["pos_embed"]
    with pytest.raises(WeightsError, match="pos_embed is missing"):
        adapt(tensors, VIT, VIT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.0.norm1.weight": None}, "blocks.0.norm1.weight is missing"),
        ({"novel": torch.ones(1)}, "novel is unexpected"),
        ({"norm.weight": torch.ones(5)}, r"norm.weight has shape \(5,\), not \(32,\)"),
        ({"head.bias": None}, "head.bias is missing"),
        ({"head.bias": torch.ones(3, 1)}, r"head.bias has shape \(3, 1\), not \(3,\)"),
        ({"norm.bias": torch.ones(32, dtype=torch.int64)}, "norm.bias has type torch.int64"),
        ({"pos_embed": torch.ones(1, 26, 32)}, r"pos_embed has shape \(1, 26, 32\), which is no"),
        ({"patch_embed.proj.weight": torch.ones(32, 2, 8, 8)}, "patch_embed.proj.weight has shape"),
    ],
    ids=str,
)
def test_what_nothing_explains(changes: dict[str, Tensor | None], message: str) -> None:
    tensors = {**weights(VIT), **changes}
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(WeightsError, match=f"the weights do not fit the model: {message}"):
        adapt(given, VIT, VIT)


def test_the_table_is_short() -> None:
    left = {f"unused.{number}": torch.ones(1) for number in range(100)}
    lines = str(adapt(weights(VIT), VIT, VIT, left=left)).splitlines()
    assert len(lines) == 14 and lines[-1] == "ignored   and 88 more"
