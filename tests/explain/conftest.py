"""Small models of every family that attends, and their attention written out by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitkit
from vitkit.models.backbone import Backbone
from vitkit.models.swinv2 import SwinV2

Grid = tuple[int, int]
Layout = Callable[[Grid, Grid, Grid], "Places"]

VIT = "vit_tiny_patch16_224"
SMALL = {"image_size": (32, 48), "patch_size": 8, "dim": 32, "depth": 3, "num_heads": 2}
CUT = {"image_size": (40, 56), "dim": 8, "depths": (2, 2, 2), "num_heads": (2, 4, 4)}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": (VIT, SMALL),
    "mean": (VIT, SMALL | {"pool": "mean"}),
    "both": (VIT, SMALL | {"pool": "cls_mean", "layer_scale": 0.1}),
    "registers": (VIT, SMALL | {"registers": 2, "prefix_positions": False, "qk_norm": True}),
    "attention pool": (VIT, SMALL | {"pool": "attention", "registers": 1}),
    "no class token": (VIT, SMALL | {"pool": "attention", "class_token": False}),
    "stem": (VIT, SMALL | {"stem": (8, 16), "pool": "mean", "class_token": False}),
    "deit": ("deit_tiny_distilled_patch16_224", SMALL),
    "hybrid": ("vit_tiny_r_s16_p8_224", SMALL),
    "cct": ("cct_2_3x2_32", {"image_size": (16, 24), "dim": 32, "num_heads": 2}),
    "swin": ("swin_tiny_patch4_window7_224", CUT | {"window_size": 4}),
    "swinv2": (
        "swinv2_tiny_window8_256",
        CUT | {"window_size": 4, "pretrained_window_sizes": (0, 6, 0)},
    ),
}


@pytest.fixture
def build() -> Callable[..., Backbone]:
    """`build("swin")` is a small model of five classes, with random weights, in float64."""

    def make(name: str, **settings: Any) -> Backbone:
        architecture, small = MODELS[name]
        torch.manual_seed(0)
        model = vitkit.create_model(architecture, num_classes=5, **small | settings)
        with torch.no_grad():
            for each, parameter in model.named_parameters():
                nn.init.normal_(parameter, std=0.25)
                if "norm" in each and each.endswith("weight"):
                    parameter += 1
        return model.double().eval()

    return make


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """`images(model, 2)` are random pixels of the size that a model is made for, or of another."""

    def make(model: Backbone, count: int, size: Grid | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        size = size or model.config.image_size
        return torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)

    return make


@dataclass(frozen=True)
class Places:
    """Where tokens lie that attend in windows: those of the grid row by row, then padding."""

    window: Tensor  # (T',), which window
    inside: Tensor  # (T',), which place in it
    apart: Tensor  # (T', T'), whether the mask of shifted windows forbids a pair


@pytest.fixture
def layout() -> Layout:
    """Every token's window, found by rolling the index grid by hand."""
    return _layout


def _layout(grid: Grid, window: Grid, shift: Grid) -> Places:
    down, across = (-(-side // each) for side, each in zip(grid, window, strict=True))
    height, width = down * window[0], across * window[1]
    rows: dict[int, tuple[int, int, int]] = {}
    padding = grid[0] * grid[1]
    for r, c in product(range(height), range(width)):
        if r < grid[0] and c < grid[1]:  # what was rolled here came from `shift` further on
            token = (r + shift[0]) % grid[0] * grid[1] + (c + shift[1]) % grid[1]
        else:
            token, padding = padding, padding + 1
        region = 2 * (r >= height - shift[0]) + (c >= width - shift[1])
        number = r // window[0] * across + c // window[1]
        rows[token] = number, r % window[0] * window[1] + c % window[1], region
    order = torch.tensor([rows[token] for token in range(height * width)])
    number, inside, regions = order.unbind(1)
    return Places(number, inside, regions[:, None] != regions)


@dataclass
class ByHand:
    """A forward pass in plain products: what is said, and all that led to it."""

    maps: list[Tensor] = field(default_factory=list)  # (B, H, T', T'), with gradients kept
    tokens: list[int] = field(default_factory=list)  # T of each layer, without padding
    grids: list[Grid] = field(default_factory=list)  # of each layer
    blocks: list[Tensor] = field(default_factory=list)  # what each block gave
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    reading: Tensor = field(default_factory=lambda: torch.empty(0))  # (B, T) of the last layer

    def merging(self, layer: int) -> Tensor | None:
        """What a layer's tokens were made of, if the layer before has more: (T, 4 T), quarters."""
        fine, coarse = self.grids[layer - 1], self.grids[layer]
        if layer == 0 or fine == coarse:
            return None
        matrix = torch.zeros(*coarse, *fine, dtype=torch.float64)
        for row, column in product(range(fine[0]), range(fine[1])):
            matrix[row // 2, column // 2, row, column] = 0.25
        return matrix.flatten(2).flatten(0, 1)


@pytest.fixture
def by_hand() -> Callable[[Backbone, Tensor], ByHand]:
    """`by_hand(model, x)` runs a model without its attention layers, and without any tap."""

    def run(model: Any, x: Tensor) -> ByHand:
        seen = ByHand()
        if hasattr(model, "layers"):
            _swin(model, x, seen)
        else:
            _vit(model, x, seen)
        torch.testing.assert_close(seen.logits, model(x), rtol=1e-9, atol=1e-9)
        return seen

    return run


def _heads(t: Tensor, layer: Any) -> Tensor:
    """(B, T, D) -> (B, H, T, D/H)."""
    return t.reshape(*t.shape[:2], layer.num_heads, -1).transpose(1, 2)


def _attend(seen: ByHand, layer: Any, scores: Tensor, v: Tensor) -> Tensor:
    attention = scores.softmax(dim=-1)
    if attention.requires_grad:
        attention.retain_grad()
    seen.maps.append(attention)
    return layer.proj((attention @ v).transpose(1, 2).flatten(2))


def _vit(model: Any, x: Tensor, seen: ByHand) -> None:
    cct = hasattr(model, "tokenizer")
    cells = (model.tokenizer if cct else model.patch_embed)(x)
    x = model.embed(cells)
    for block in model.blocks:
        layer = block.attn
        q, k, v = (_heads(t, layer) for t in layer.qkv(block.norm1(x)).chunk(3, dim=-1))
        q, k = layer.q_norm(q), layer.k_norm(k)
        y = _attend(seen, layer, q @ k.mT / q.shape[-1] ** 0.5, v)
        if cct:
            x = block.norm2(x + y)
            x = x + block.mlp(x)
        else:
            x = x + block.ls1(y)
            x = x + block.ls2(block.mlp(block.norm2(x)))
        seen.blocks.append(x)
        seen.tokens.append(x.shape[1])
        seen.grids.append((cells.shape[1], cells.shape[2]))
    features = model.norm(x)
    seen.logits, seen.reading = model.forward_head(features), _reading(model, features, cct=cct)


def _reading(model: Any, features: Tensor, *, cct: bool) -> Tensor:
    """What share of each token the head takes: (B, T)."""
    reading = torch.zeros(features.shape[:2], dtype=torch.float64)
    if cct:
        return model.pool.attention(features)[..., 0].softmax(dim=-1)
    prefix, pool = model.config.num_prefix_tokens, model.config.pool
    if pool == "attention":
        layer = model.attn_pool
        key = _heads(layer.kv(features[:, prefix:]).chunk(2, dim=-1)[0], layer)
        q = _heads(layer.q(layer.latent), layer)  # (1, H, 1, D/H)
        reading[:, prefix:] = (q @ key.mT / q.shape[-1] ** 0.5).softmax(dim=-1).mean(1)[:, 0]
    if pool in ("cls", "cls_mean"):
        reading[:, 0] = 1
    if pool in ("mean", "cls_mean"):
        reading[:, prefix:] = 1 / (features.shape[1] - prefix)
    if hasattr(model, "dist_token"):
        reading[:, 1] = 1
    return reading / reading.sum(dim=1, keepdim=True)


def _swin(model: Any, x: Tensor, seen: ByHand) -> None:
    x = model.patch_embed(x)
    second = isinstance(model, SwinV2)
    for stage in model.layers:
        x = stage.downsample(x)
        for block in stage.blocks:
            if second:
                x = x + block.norm1(_windows(seen, block, x))
                x = x + block.norm2(block.mlp(x))
            else:
                x = x + _windows(seen, block, block.norm1(x))
                x = x + block.mlp(block.norm2(x))
            seen.blocks.append(x)
    seen.logits = model.forward_head(model.norm(x))
    count = seen.tokens[-1]
    seen.reading = torch.full((len(x), count), 1 / count, dtype=torch.float64)


def _windows(seen: ByHand, block: Any, x: Tensor) -> Tensor:
    """A block's attention between all tokens at once, with what lies in no common window at 0."""
    layer, grid = block.attn, (x.shape[1], x.shape[2])
    places = _layout(grid, block.window, block.shift)
    count, padded = grid[0] * grid[1], len(places.window)
    seen.tokens.append(count)
    seen.grids.append(grid)
    qkv = layer.qkv(F.pad(x.flatten(1, 2), (0, 0, 0, padded - count)))
    if hasattr(layer, "logit_scale"):
        qkv = qkv + torch.cat([layer.q_bias, torch.zeros_like(layer.q_bias), layer.v_bias])
    q, k, v = (_heads(t, layer) for t in qkv.chunk(3, dim=-1))
    if hasattr(layer, "logit_scale"):
        q, k = (t / t.norm(dim=-1, keepdim=True).clamp(min=1e-12) for t in (q, k))
        q = q * layer.logit_scale.exp()
    else:
        q = q / q.shape[-1] ** 0.5
    scores = q @ k.mT + layer.position_bias()[:, places.inside[:, None], places.inside]
    scores = scores - 100.0 * places.apart * any(block.shift)
    elsewhere = places.window[:, None] != places.window
    y = _attend(seen, layer, scores.masked_fill(elsewhere, -torch.inf), v)
    return y[:, :count].unflatten(1, grid)
