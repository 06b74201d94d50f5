"""Relevance and LeGrad against their papers' matrices, with gradients of attention by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.explain.relevance import legrad, relevance
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
Images = Callable[..., Tensor]
ByHand = Callable[[Backbone, Tensor], Any]
Grid = tuple[int, int]
TARGET = Target(torch.tensor([1, 3]))
AGAINST = Target(torch.tensor([1, 3]), torch.tensor([0, 4]))
CASES = [
    ("vit", None, TARGET),
    ("vit", (37, 50), AGAINST),
    ("mean", None, TARGET),
    ("both", None, AGAINST),
    ("registers", None, TARGET),
    ("attention pool", None, AGAINST),
    ("no class token", None, TARGET),
    ("stem", (44, 61), TARGET),
    ("deit", None, AGAINST),
    ("hybrid", None, TARGET),
    ("cct", (21, 26), AGAINST),
    ("swin", None, TARGET),
    ("swin", (44, 61), AGAINST),
    ("swinv2", (44, 61), TARGET),
]


def score(logits: Tensor, target: Target) -> Tensor:
    rows = torch.arange(2)
    said = logits[rows, target.label]
    return (said if target.against is None else said - logits[rows, target.against]).sum()


def cells(row: NDArray[Any], grid: Grid) -> NDArray[Any]:
    return row[len(row) - grid[0] * grid[1] :].reshape(grid)


def chefer(seen: Any, image: int) -> NDArray[Any]:
    """arXiv:2103.15679, eq. 5 and 6, for what the head reads: (h, w).

    R starts as the identity. What only goes past attention is taken off, as `relevance` does.
    """
    through = past = np.eye(seen.tokens[0])
    for layer, (whole, count) in enumerate(zip(seen.maps, seen.tokens, strict=True)):
        if (merging := seen.merging(layer)) is not None:
            through, past = merging.numpy() @ through, merging.numpy() @ past
        a, slope = (t[image, :, :count, :count].detach().numpy() for t in (whole, whole.grad))
        a_bar = np.maximum(slope * a, 0).mean(axis=0)
        through = through + a_bar @ through
    reading = seen.reading[image].detach().numpy()
    return cells(reading @ (through - past), seen.grids[0])


@pytest.mark.parametrize(("name", "size", "target"), CASES)
def test_relevance(
    name: str, size: Grid | None, target: Target, build: Build, images: Images, by_hand: ByHand
) -> None:
    model = build(name)
    x = images(model, 2, size)
    seen = by_hand(model, x)
    score(seen.logits, target).backward()
    found = relevance(model, x, target)
    assert found.shape == (2, *seen.grids[0]) and (found >= 0).all() and found.std() > 0
    for b in range(2):
        expected = chefer(seen, b)
        np.testing.assert_allclose(found[b].numpy(), expected, rtol=1e-6, atol=1e-9 * found.max())


@pytest.mark.parametrize("name", ["vit", "mean", "swin"])
def test_what_is_left_out_is_the_same_for_every_cell(
    name: str, build: Build, images: Images, by_hand: ByHand
) -> None:
    model = build(name)
    seen = by_hand(model, images(model, 2))
    past = np.eye(seen.tokens[0])
    for layer in range(len(seen.maps)):
        if (merging := seen.merging(layer)) is not None:
            past = merging.numpy() @ past
    row = cells(seen.reading[0].detach().numpy() @ past, seen.grids[0])
    np.testing.assert_allclose(row, row[0, 0], rtol=1e-12)


@pytest.mark.parametrize(("name", "size", "target"), CASES)
def test_legrad(
    name: str, size: Grid | None, target: Target, build: Build, images: Images, by_hand: ByHand
) -> None:
    """arXiv:2404.03214, section 3: one backward pass for each layer, from what it says itself."""
    model = build(name)
    x = images(model, 2, size)
    seen = by_hand(model, x)
    layers = [i for i, grid in enumerate(seen.grids) if grid == seen.grids[-1]]
    expected = torch.zeros(2, seen.tokens[-1], dtype=torch.float64)
    for i in layers:
        said = model.forward_head(model.norm(seen.blocks[i]))
        (slope,) = torch.autograd.grad(score(said, target), seen.maps[i], retain_graph=True)
        count = seen.tokens[i]
        looked = (seen.maps[i] > 0)[..., :count, :count]  # in Swin, what lies in one window
        positive = slope[..., :count, :count].clamp(min=0) * looked
        expected += positive.mean(dim=(1, 2)) / len(layers)
    found = legrad(model, x, target)
    assert found.shape == (2, *seen.grids[-1]) and found.std() > 0
    for b in range(2):
        row = cells(expected[b].numpy(), seen.grids[-1])
        np.testing.assert_allclose(found[b].numpy(), row, rtol=1e-9, atol=1e-12)


def test_legrad_of_swin_is_of_the_last_stage(build: Build, images: Images) -> None:
    model = build("swin")
    assert legrad(model, images(model, 2), TARGET).shape == (2, 3, 4)


@pytest.mark.parametrize("run", [relevance, legrad])
@pytest.mark.parametrize("name", ["vit", "swin", "cct"])
def test_checkpointed_blocks_give_the_same(
    name: str, run: Callable[..., Tensor], build: Build, images: Images
) -> None:
    """Blocks that run again in the backward pass tell their maps once more."""
    model = build(name)
    x = images(model, 2)
    expected = run(model, x, TARGET)
    model.set_grad_checkpointing()
    torch.testing.assert_close(run(model, x, TARGET), expected)


@pytest.mark.parametrize("run", [relevance, legrad])
def test_the_model_keeps_no_gradients(
    run: Callable[..., Tensor], build: Build, images: Images
) -> None:
    model = build("vit")
    run(model, images(model, 2), TARGET)
    assert all(parameter.grad is None for parameter in model.parameters())
