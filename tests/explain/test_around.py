"""Attention around one token against whole maps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.around import around, find_token
from vitkit.explain.sites import GlobalSite
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
Images = Callable[..., Tensor]
ByHand = Callable[[Backbone, Tensor], Any]


@pytest.mark.parametrize("name", ["vit", "deit", "registers", "cct", "swin", "swinv2"])
def test_rows_and_columns_of_the_token(
    name: str, build: Build, images: Images, by_hand: ByHand
) -> None:
    model = build(name)
    x = images(model, 1)
    seen = by_hand(model, x)
    found = around(model, x, (0.4, 0.7))
    assert len(found) == len(seen.maps)
    for layer, whole, count, grid in zip(found, seen.maps, seen.tokens, seen.grids, strict=True):
        assert layer.grid == grid
        prefix = count - grid[0] * grid[1]
        token = prefix + int(0.4 * grid[0]) * grid[1] + int(0.7 * grid[1])
        assert layer.token == token and len(layer.prefix) == prefix
        maps = whole.detach()[0, :, :count, :count].numpy()
        np.testing.assert_allclose(layer.looks, maps[:, token], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(layer.seen, maps[:, :, token], rtol=1e-5, atol=1e-7)


def test_prefix_tokens_by_name(build: Build, images: Images) -> None:
    model = build("deit")
    x = images(model, 1)
    for number, name in enumerate(("CLS", "DIST")):
        assert {layer.token for layer in around(model, x, name)} == {number}


def test_corners() -> None:
    site = GlobalSite("blocks.0.attn", 2, (3, 5), ("CLS",))
    assert find_token(site, (0.0, 0.0)) == 1
    assert find_token(site, (0.999, 0.999)) == 15
    assert find_token(site, (0.34, 0.0)) == 6


@pytest.mark.parametrize(
    ("name", "count", "at", "words"),
    [
        ("vit", 1, (1.0, 0.5), "is not in the image"),
        ("vit", 1, (0.5, -0.1), "is not in the image"),
        ("vit", 1, "CSL", "no token is called 'CSL', did you mean 'CLS'?"),
        ("swin", 1, "CLS", "there are: none"),
        ("vit", 2, "CLS", "2 images are too many"),
    ],
)
def test_mistakes(name: str, count: int, at: Any, words: str, build: Build, images: Images) -> None:
    model = build(name)
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        around(model, images(model, count), at)


def test_models_without_attention(build: Build) -> None:
    import vitkit

    cnn = vitkit.create_model("convnet_3_32", num_classes=2, image_size=8).eval()
    with pytest.raises(ConfigError, match="no attention"):
        around(cnn, torch.zeros(1, 3, 8, 8), (0.5, 0.5))
