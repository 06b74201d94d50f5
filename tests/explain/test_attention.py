"""Attention and its rollout against NumPy: full matrices between all tokens, multiplied."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.attention import attention, gradient_rollout, rollout
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
Images = Callable[..., Tensor]
ByHand = Callable[[Backbone, Tensor], Any]
REDUCE = {"mean": np.mean, "max": np.max, "min": np.min}
NAMES = [
    "vit",
    "mean",
    "both",
    "registers",
    "attention pool",
    "no class token",
    "stem",
    "deit",
    "hybrid",
    "cct",
    "swin",
    "swinv2",
]
TARGET = Target(torch.tensor([1, 3]))
AGAINST = Target(torch.tensor([1, 3]), torch.tensor([0, 4]))


def rolled(reading: NDArray[Any], maps: list[NDArray[Any]], seen: Any) -> NDArray[Any]:
    """Abnar and Zuidema's rollout of one image by matrices, and its first layer's cells: (h, w).

    `maps` have one head and their padding: (T', T').
    """
    product = np.eye(seen.tokens[0])
    for layer, (whole, tokens) in enumerate(zip(maps, seen.tokens, strict=True)):
        merging = seen.merging(layer)
        product = product if merging is None else merging.numpy() @ product
        half = whole + np.eye(len(whole))
        half = half / half.sum(axis=1, keepdims=True)
        product = half[:tokens, :tokens] @ product
    return cells(reading @ product, seen.grids[0])


def cells(row: NDArray[Any], grid: tuple[int, int]) -> NDArray[Any]:
    return row[len(row) - grid[0] * grid[1] :].reshape(grid)


@pytest.mark.parametrize("size", [None, (44, 61)])
@pytest.mark.parametrize("name", NAMES)
def test_rollout(
    name: str, size: tuple[int, int] | None, build: Build, images: Images, by_hand: ByHand
) -> None:
    model = build(name)
    x = images(model, 2, size)
    seen = by_hand(model, x)
    found = rollout(model, x, TARGET)
    assert found.shape == (2, *seen.grids[0]) and found.std() > 1e-4 * found.mean()
    for b in range(2):
        maps = [whole[b].detach().numpy().mean(axis=0) for whole in seen.maps]
        expected = rolled(seen.reading[b].detach().numpy(), maps, seen)
        np.testing.assert_allclose(found[b].numpy(), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("fusion", ["max", "min"])
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_rollout_by_another_fusion(
    name: str, fusion: str, build: Build, images: Images, by_hand: ByHand
) -> None:
    model = build(name)
    x = images(model, 1)
    seen = by_hand(model, x)
    maps = [REDUCE[fusion](whole[0].detach().numpy(), axis=0) for whole in seen.maps]
    expected = rolled(seen.reading[0].detach().numpy(), maps, seen)
    found = rollout(model, x, TARGET, fusion=fusion)[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-12)
    assert not np.allclose(found, rollout(model, x, TARGET)[0])


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("vit", TARGET),
        ("vit", AGAINST),
        ("deit", AGAINST),
        ("attention pool", TARGET),
        ("cct", TARGET),
        ("swin", AGAINST),
        ("swinv2", TARGET),
    ],
)
def test_gradient_rollout(
    name: str, target: Target, build: Build, images: Images, by_hand: ByHand
) -> None:
    model = build(name)
    x = images(model, 2)
    seen = by_hand(model, x)
    rows = torch.arange(2)
    score = seen.logits[rows, target.label]
    if target.against is not None:
        score = score - seen.logits[rows, target.against]
    score.sum().backward()
    found = gradient_rollout(model, x, target)
    for b in range(2):
        products = [(whole[b] * whole.grad[b]).detach().numpy() for whole in seen.maps]
        maps = [np.maximum(product, 0).mean(axis=0) for product in products]
        expected = rolled(seen.reading[b].detach().numpy(), maps, seen)
        np.testing.assert_allclose(found[b].numpy(), expected, rtol=1e-6, atol=1e-12)


def looked_at(seen: Any, layer: int, reading: Tensor, head: int | None, fusion: str) -> Any:
    """Where the tokens in `reading` look in a layer: (B, h, w)."""
    whole = seen.maps[layer].detach().numpy()  # (B, H, T', T')
    one = REDUCE[fusion](whole, axis=1) if head is None else whole[:, head]
    count = seen.tokens[layer]
    rows = np.einsum("t,btu->bu", reading.numpy(), one[:, :count, :count])
    return np.stack([cells(row, seen.grids[layer]) for row in rows])


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("vit", [1.0]),
        ("deit", [0.5, 0.5]),
        ("mean", [0.0]),
        ("no class token", []),
        ("cct", []),
        ("swin", []),
        ("swinv2", []),
    ],
)
def test_attention_of_a_layer(
    name: str, prefix: list[float], build: Build, images: Images, by_hand: ByHand
) -> None:
    model = build(name)
    x = images(model, 2, (44, 61))
    seen = by_hand(model, x)
    for layer in (0, 1, -1):
        reading = torch.zeros(seen.tokens[layer], dtype=torch.float64)
        reading[: len(prefix)] = torch.tensor(prefix)
        if sum(prefix) == 0:
            reading[len(prefix) :] = 1 / (len(reading) - len(prefix))
        for head, fusion in ((None, "mean"), (None, "max"), (None, "min"), (0, "mean"), (1, "max")):
            expected = looked_at(seen, layer, reading, head, fusion)
            found = attention(model, x, TARGET, layer=layer, head=head, fusion=fusion)
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("head", [2, -1])
def test_a_head_that_there_is_not(head: int, build: Build, images: Images) -> None:
    model = build("vit")
    with pytest.raises(ConfigError, match=f"head={head} is not among 2; try 1"):
        attention(model, images(model, 2), TARGET, head=head)


def test_a_layer_and_a_fusion_that_there_are_not(build: Build, images: Images) -> None:
    model = build("swin")
    x = images(model, 2)
    with pytest.raises(ConfigError, match="layer=6 is not among 6 attention layers; try 5 or -1"):
        attention(model, x, TARGET, layer=6)
    for run in (attention, rollout, gradient_rollout):
        with pytest.raises(ConfigError, match="fusion='sum' is unknown"):
            run(model, x, TARGET, fusion="sum")


def test_the_class_does_not_matter_to_attention_but_to_its_gradient(
    build: Build, images: Images
) -> None:
    model = build("vit")
    x = images(model, 2)
    other = Target(torch.tensor([0, 0]))
    for run, same in ((attention, True), (rollout, True), (gradient_rollout, False)):
        assert torch.equal(run(model, x, TARGET), run(model, x, other)) is same
