"""Distance and entropy of heads against sums over single pairs of tokens."""

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain import heads
from vitkit.explain.heads import measure_heads
from vitkit.explain.sites import cell_side
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
SIDES = {"cct": (4,), "swin": (4, 8, 16), "swinv2": (4, 8, 16)}  # pixels of a cell; of others 8
NAMES = ("vit", "registers", "attention pool", "stem", "deit", "hybrid", "cct", "swin", "swinv2")


def sums_of_pairs(maps: np.ndarray, grid: tuple[int, int], prefix: int, side: int) -> np.ndarray:
    """Distance, share to no cell, and entropy, one pair of tokens at a time: (3, H)."""
    images, count, tokens, _ = maps.shape
    cells = range(prefix, prefix + grid[0] * grid[1])
    found = np.zeros((3, count))
    for q in cells:
        for k in range(tokens):
            weights = maps[:, :, q, k].sum(axis=0)
            if k in cells:
                steps = np.subtract(divmod(q - prefix, grid[1]), divmod(k - prefix, grid[1]))
                found[0] += weights * side * math.hypot(*steps)
            else:
                found[1] += weights
        rows = maps[:, :, q]
        logs = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
        found[2] -= (rows * logs).sum(axis=(0, 2))
    return found / (images * len(cells))


@pytest.mark.parametrize("name", NAMES)
def test_matches_sums_over_pairs(
    name: str, build: Build, images: Callable[..., Tensor], by_hand: Callable[..., Any]
) -> None:
    model = build(name)
    x = images(model, 2)
    measured = measure_heads(model, [x])
    seen = by_hand(model, x)
    assert measured.images == 2 and len(measured.layers) == len(seen.maps)
    for i, (layer, maps) in enumerate(zip(measured.layers, seen.maps, strict=True)):
        grid, sides = seen.grids[i], SIDES.get(name, (8,))
        prefix = seen.tokens[i] - grid[0] * grid[1]
        side = sides[layer.stage]
        expected = sums_of_pairs(maps.detach().numpy(), grid, prefix, side)
        found = np.stack([layer.distance, layer.away, layer.entropy])
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(layer.reach, expected[0] / (1 - expected[1]), rtol=1e-6)
        assert np.all((layer.evenness >= 0) & (layer.evenness <= 1))


@pytest.mark.parametrize("name", ["registers", "cct", "swin", "swinv2"])
def test_a_head_that_looks_everywhere_alike(
    name: str, build: Build, images: Callable[..., Tensor], layout: Callable[..., Any]
) -> None:
    """Its entropy is the limit, in shifted windows too, where a mask leaves it less to look at."""
    model = build(name)
    for each, parameter in model.named_parameters():
        if any(part in each for part in ("attn.qkv", "q_bias", "bias_table", "cpb_mlp")):
            torch.nn.init.zeros_(parameter)
    layers = measure_heads(model, [images(model, 1)]).layers
    for layer in layers:
        np.testing.assert_allclose(layer.evenness, 1, rtol=1e-6)
    if name == "registers":
        limit = math.log(3 + 4 * 6)
        np.testing.assert_allclose(layers[0].away, 3 / 27)
        places = 8 * np.stack(np.meshgrid(range(4), range(6), indexing="ij"), -1).reshape(-1, 2)
        apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
        np.testing.assert_allclose(layers[0].reach, apart.mean())
    elif name == "cct":
        limit = math.log(4 * 6)
    else:  # the second block's windows are shifted by 2
        places = layout((10, 14), (4, 4), (2, 2))
        seen = (places.window[:, None] == places.window) & ~places.apart
        limit = float(seen[:140].sum(dim=1).double().log().mean())
        assert layers[0].limit == pytest.approx(math.log(16))
    assert layers[1].limit == pytest.approx(limit)


def test_batches_add_up(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("swin")
    x = images(model, 3)
    parts, whole = measure_heads(model, (x[i : i + 2] for i in (0, 2))), measure_heads(model, [x])
    assert parts.images == whole.images == 3
    for part, of_all in zip(parts.layers, whole.layers, strict=True):
        for key in ("distance", "away", "entropy", "limit"):
            np.testing.assert_allclose(getattr(part, key), getattr(of_all, key), rtol=1e-9)


def test_every_cell_counts_alike_where_sizes_differ(
    build: Build, images: Callable[..., Tensor]
) -> None:
    model = build("vit")
    small, large = images(model, 1), images(model, 1, (48, 48))
    both = measure_heads(model, [small, large]).layers[1]
    one, other = (measure_heads(model, [x]).layers[1] for x in (small, large))
    expected = (24 * one.distance + 36 * other.distance) / 60
    np.testing.assert_allclose(both.distance, expected, rtol=1e-9)


def test_maps_of_one_layer_are_held_at_a_time(
    build: Build, images: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Tensor]] = []
    held: list[int] = []

    def watched(model: Backbone, listen: Callable[[int, Tensor], None]) -> Backbone:
        def also(layer: int, maps: Tensor) -> None:
            alive.append(weakref.ref(maps))
            listen(layer, maps)
            held.append(sum(ref() is not None for ref in alive))

        return original(model, also)

    original = heads.tap
    monkeypatch.setattr(heads, "tap", watched)
    model = build("vit")
    measure_heads(model, [images(model, 1)] * 2)
    assert held == [1] * 6


def test_the_model_is_left_alone(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("deit")
    before = list(model.modules())
    x = images(model, 1)
    said = model(x)
    measure_heads(model, [x])
    assert list(model.modules()) == before
    assert all(block.attn.on_map is None for block in model.blocks)
    torch.testing.assert_close(model(x), said, rtol=0, atol=0)


def test_one_token_is_no_division_by_zero(images: Callable[..., Tensor]) -> None:
    model = vitkit.create_model(
        "vit_tiny_patch16_224",
        image_size=8,
        patch_size=8,
        dim=8,
        depth=1,
        num_heads=1,
        class_token=False,
        pool="mean",
    ).double()
    (layer,) = measure_heads(model, [images(model, 1)]).layers
    assert layer.limit == layer.evenness[0] == layer.distance[0] == layer.reach[0] == 0


def test_errors(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("vit")
    with pytest.raises(ConfigError, match=r"\(3, 32, 48\) is no batch .*; give a list of batches"):
        measure_heads(model, images(model, 2))
    with pytest.raises(ConfigError, match="no image to look at; give at least one batch"):
        measure_heads(model, [])
    cnn = vitkit.create_model("resnet18", num_classes=2)
    with pytest.raises(ConfigError, match="ResNet has no attention"):
        measure_heads(cnn, [torch.zeros(1, 3, 32, 32)])
    with pytest.raises(ConfigError, match="ResNet has no cells of its own"):
        cell_side(cnn)
