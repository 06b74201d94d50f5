"""Norms of tokens against NumPy, and outliers that were planted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import median_abs_deviation
from torch import Tensor

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.norms import LayerNorms, TokenNorms, token_norms
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
PREFIX = {
    "vit": ("CLS",),
    "registers": ("CLS", "REG 1", "REG 2"),
    "deit": ("CLS", "DIST"),
}


def layer(cells: np.ndarray, name: str = "blocks.0") -> LayerNorms:
    cells = np.asarray(cells, np.float32)
    return LayerNorms(name, (), np.zeros((len(cells), 0), np.float32), cells)


@pytest.mark.parametrize("name", ["vit", "registers", "deit", "mean", "cct", "swin", "swinv2"])
def test_matches_numpy(
    name: str, build: Build, images: Callable[..., Tensor], by_hand: Callable[..., Any]
) -> None:
    model = build(name)
    x = images(model, 2)
    found, seen = token_norms(model, x).layers, by_hand(model, x)
    assert len(found) == len(seen.blocks)
    prefix = PREFIX.get(name, ("CLS",) if name == "mean" else ())
    for norms, tokens, grid in zip(found, seen.blocks, seen.grids, strict=True):
        flat = tokens.detach().numpy().reshape(2, -1, tokens.shape[-1])
        expected = np.sqrt((flat**2).sum(axis=-1))
        assert norms.prefix_names == prefix and norms.cells.shape == (2, *grid)
        np.testing.assert_allclose(norms.prefix, expected[:, : len(prefix)], rtol=1e-5)
        cells = expected[:, len(prefix) :].reshape(2, *grid)
        np.testing.assert_allclose(norms.cells, cells, rtol=1e-5)
    last = {"cct": "blocks.1", "swin": "layers.2.blocks.1", "swinv2": "layers.2.blocks.1"}
    assert found[-1].name == last.get(name, "blocks.2")


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.4])
def test_the_limit(spread: float) -> None:
    """Narrow norms are held to three times their median, wide ones to five deviations."""
    cells = 20 * (1 + spread * np.random.default_rng(0).standard_normal((2, 14, 14)))
    by_scipy = np.median(cells) + 5 * median_abs_deviation(cells, axis=None, scale="normal")
    expected = max(by_scipy, 3 * np.median(cells))
    assert layer(cells).limit == pytest.approx(expected, rel=1e-4)  # 1.4826 is rounded
    assert (spread == 0.4) == bool(expected == by_scipy)
    assert not layer(cells).outliers.any()


def test_outliers_are_found() -> None:
    cells = np.random.default_rng(0).uniform(40, 60, (2, 14, 14))
    cells[0, 3, 5], cells[1, 0, 0], cells[1, 13, 2] = 170, 400, 520
    cells[0, 0, 0] = 130  # far out, but less than three times the median
    assert np.argwhere(layer(cells).outliers).tolist() == [[0, 3, 5], [1, 0, 0], [1, 13, 2]]


def test_many_are_no_outliers() -> None:
    cells = np.full((1, 10, 10), 10.0)
    cells[0, 0] = 100
    assert layer(cells).outliers.sum() == 10
    cells[0, 1, 0] = 100
    assert not layer(cells).outliers.any()
    assert TokenNorms((layer(cells),)).warning == ""


def test_the_warning_names_the_worst_layer() -> None:
    quiet, some, worst = (np.full((2, 7, 14), 50.0) for _ in range(3))
    some[0, 2, 2] = 200
    worst[0, 2, 2], worst[1, 3, 3], worst[1, 6, 13] = 500, 310, 300
    layers = tuple(layer(c, f"blocks.{i}") for i, c in enumerate((quiet, some, worst, quiet)))
    warning = TokenNorms(layers).warning
    assert warning.startswith(
        "blocks.2: 3 of 196 cells (1.5%) have norms up to 500, 10.0 times the median of 50; "
        "there are such in 2 of 4 blocks, first in blocks.1."
    )
    assert "arXiv:2309.16588" in warning and "\n" not in warning


def test_a_token_that_a_model_makes_long(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("vit")
    x = images(model, 1)
    assert token_norms(model, x).warning == ""
    with torch.no_grad():
        model.pos_embed[0, 1 + 2 * 6 + 4] += 100  # the cell in row 2, column 4
        model.pos_embed[0, 0] += 500  # of the class token nobody minds it
    norms = token_norms(model, x)
    for each in norms.layers:
        assert np.argwhere(each.outliers).tolist() == [[0, 2, 4]]
    assert norms.warning.startswith("blocks.") and "1 of 24 cells (4.2%)" in norms.warning
    assert "in 3 of 3 blocks, first in blocks.0" in norms.warning


def test_zeros_and_a_single_cell() -> None:
    assert TokenNorms((layer(np.zeros((1, 4, 4))), layer(np.ones((1, 1, 1))))).warning == ""
    lonely = np.zeros((1, 4, 4))
    lonely[0, 1, 1] = 3
    assert layer(lonely).outliers.sum() == 1
    assert TokenNorms((layer(lonely),)).warning.startswith("blocks.0: 1 of 16")


def test_a_cnn_has_none() -> None:
    with pytest.raises(ConfigError, match="ResNet has no attention"):
        token_norms(vitkit.create_model("resnet18", num_classes=2), torch.zeros(1, 3, 32, 32))
