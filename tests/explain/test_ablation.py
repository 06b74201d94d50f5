"""Ablation against weights set to zero, images cut by hand, and timm's ViT on fewer tokens."""

import copy
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain import ablation
from vitkit.explain.ablation import ablate, cover, head_effects, without_cells, without_heads
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
NAMES = (
    *("vit", "both", "registers", "attention pool", "stem", "deit", "hybrid", "cct"),
    *("swin", "swinv2"),
)


def attentions(model: nn.Module) -> list[Any]:
    """The attention layers, first to last."""
    return [module for name, module in model.named_modules() if name.endswith(".attn")]


def zeroed(model: Backbone, layer: int, heads: Iterable[int]) -> Backbone:
    """A copy in which the last projection has no weights for what some heads give."""
    changed = copy.deepcopy(model)
    attention = attentions(changed)[layer]
    width = attention.proj.weight.shape[1] // attention.num_heads
    with torch.no_grad():
        for head in heads:
            attention.proj.weight[:, head * width : (head + 1) * width] = 0
    return changed


@pytest.mark.parametrize("name", NAMES)
def test_without_heads(name: str, build: Build, images: Callable[..., Tensor]) -> None:
    model = build(name)
    x = images(model, 3)
    before, said = list(model.modules()), model(x)
    changed = without_heads(model, {1: [1], -1: [0, 1], len(attentions(model)) - 1: [1]})
    expected = zeroed(zeroed(model, 1, [1]), -1, [0, 1])(x)
    torch.testing.assert_close(changed(x), expected, rtol=1e-9, atol=1e-9)
    assert (expected - said).abs().max() > 1e-3
    assert list(model.modules()) == before
    torch.testing.assert_close(model(x), said, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at_once", [5, 32])
def test_the_effect_of_every_head(
    name: str,
    at_once: int,
    build: Build,
    images: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ablation, "AT_ONCE", at_once)
    model = build(name)
    x = images(model, 2)
    target = Target(torch.tensor([3, 0]), torch.tensor([1, 2]) if at_once == 5 else None)
    found = head_effects(model, x, target)
    layers = attentions(model)
    assert [effect.shape for effect in found] == [(2, layer.num_heads) for layer in layers]
    whole = model(x).detach()
    for i, layer in enumerate(layers):
        for head in range(layer.num_heads):
            fall = whole - zeroed(model, i, [head])(x).detach()
            expected = fall[[0, 1], [3, 0]] - (fall[[0, 1], [1, 2]] if at_once == 5 else 0)
            torch.testing.assert_close(found[i][:, head], expected, rtol=1e-7, atol=1e-9)


def test_effects_start_at_the_block_of_the_head(
    build: Build, images: Callable[..., Tensor]
) -> None:
    """Counts images: all pass the embedding once, and a block besides for heads up to its own."""
    model = build("deit")
    passed = {name: 0 for name in ("patch_embed", "blocks.0", "blocks.1", "blocks.2")}

    def count(name: str) -> Callable[..., None]:
        def add(module: nn.Module, taken: tuple[Tensor], given: Tensor) -> None:
            passed[name] += len(taken[0])

        return add

    for name in passed:
        part = f"{name}.mlp" if "blocks" in name else name
        model.get_submodule(part).register_forward_hook(count(name))
    head_effects(model, images(model, 3), Target(torch.zeros(3, dtype=torch.long)))
    assert passed == {
        "patch_embed": 3,
        "blocks.0": 3 + 3 * 2 + 3,
        "blocks.1": 3 + 3 * 4 + 3,
        "blocks.2": 3 + 3 * 6 + 3,
    }


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("vit", {}),
        ("mean", {"global_pool": "avg"}),
        ("registers", {"reg_tokens": 2, "no_embed_class": True, "qk_norm": True}),
        ("deit", {}),
    ],
)
def test_dropped_cells_are_missing_in_timm_too(
    name: str, theirs: dict[str, Any], build: Build, images: Callable[..., Tensor]
) -> None:
    model = build(name)
    reference: Any = timm.create_model(
        "deit_tiny_distilled_patch16_224" if name == "deit" else "vit_tiny_patch16_224",
        **{"img_size": (32, 48), "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2},
        num_classes=5,
        **theirs,
    )
    reference = reference.double().eval()
    reference.load_state_dict(model.state_dict())
    x = images(model, 2)
    prefix = reference.num_prefix_tokens
    gone = [prefix + 0, prefix + 6 + 5, prefix + 3 * 6 + 2]
    tokens = reference._pos_embed(reference.patch_embed(x))
    tokens = tokens[:, [i for i in range(tokens.shape[1]) if i not in gone]]
    expected = reference.forward_head(reference.norm(reference.blocks(tokens)))
    found = ablate(model, x, cells=[(0, 0), (1, 5), (3, 2)], how="drop")
    torch.testing.assert_close(found.whole, reference(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.ablated, expected, rtol=1e-9, atol=1e-9)
    assert (found.whole - found.ablated).abs().max() > 1e-3


@pytest.mark.parametrize("pool", ["attention", "mean", "cls"])
def test_without_positions_dropping_is_cropping(
    pool: str, build: Build, images: Callable[..., Tensor]
) -> None:
    model = build("vit", pool=pool, position="none")
    x = images(model, 2)
    cells = [(row, column) for row in range(4) for column in range(6) if row == 3 or column > 3]
    found = without_cells(model, cells, (32, 48))(x)
    torch.testing.assert_close(found, model(x[:, :, :24, :32]), rtol=1e-9, atol=1e-9)


def test_dropped_cells_of_a_cct(build: Build, images: Callable[..., Tensor]) -> None:
    model: Any = build("cct")
    x = images(model, 2)
    tokens = model.embed(model.tokenizer(x))
    expected = model.forward_head(model.norm(model.blocks(tokens[:, [*range(7), *range(8, 24)]])))
    found = ablate(model, x, cells=[(1, 1)], how="drop").ablated
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_cover() -> None:
    x = torch.randn(2, 3, 20, 28)
    original, expected = x.clone(), x.clone()
    expected[:, :, :8, 16:24] = 0.5
    expected[:, :, 16:, 24:] = 0.5  # four pixels each way are left of that cell
    found = cover(x, [(0, 2), (2, 3)], 8, baseline=0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert x.equal(original) and cover(x, [], 8).equal(x)


@pytest.mark.parametrize(("name", "side"), [("vit", 8), ("cct", 4), ("swin", 4)])
def test_covered_cells_are_the_models_own(
    name: str, side: int, build: Build, images: Callable[..., Tensor]
) -> None:
    model = build(name)
    x = images(model, 2)
    changed = x.clone()
    changed[:, :, side : 2 * side, 2 * side : 3 * side] = 0
    found = ablate(model, x, cells=[(1, 2)])
    torch.testing.assert_close(found.whole, model(x))
    torch.testing.assert_close(found.ablated, model(changed))
    wider = ablate(model, x, cells=[(0, 1)], side=12).ablated
    changed = x.clone()
    changed[:, :, :12, 12:24] = 0
    torch.testing.assert_close(wider, model(changed))


def test_heads_and_cells_together(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("deit")
    x = images(model, 2)
    for how, changed in (
        ("cover", zeroed(model, 0, [1])(cover(x, [(2, 2)], 8))),
        ("drop", without_cells(zeroed(model, 0, [1]), [(2, 2)], (32, 48))(x)),
    ):
        found = ablate(model, x, heads={0: [1]}, cells=[(2, 2)], how=how)
        torch.testing.assert_close(found.ablated, changed, rtol=1e-9, atol=1e-9)
        shares = (t.exp() / t.exp().sum(dim=1, keepdim=True) for t in (model(x), changed))
        whole, less = shares
        torch.testing.assert_close(found.change, less - whole, rtol=1e-6, atol=1e-9)
    nothing = ablate(model, x)
    assert nothing.ablated.equal(nothing.whole) and not nothing.whole.requires_grad


def test_a_cnn_has_cells_of_16_pixels() -> None:
    torch.manual_seed(0)
    model = vitkit.create_model("convnet_3_32", num_classes=3).eval()
    x = torch.randn(1, 3, 32, 32)
    changed = x.clone()
    changed[:, :, 16:, :16] = 0
    torch.testing.assert_close(ablate(model, x, cells=[(1, 0)]).ablated, model(changed))


def test_threads_do_not_meet(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("swin")
    x = images(model, 1)
    chosen = [{layer: [head]} for layer in range(6) for head in range(2)] * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda heads: ablate(model, x, heads=heads).ablated, chosen))
    for heads, one in zip(chosen, found, strict=True):
        torch.testing.assert_close(one, ablate(model, x, heads=heads).ablated, rtol=0, atol=0)
    assert len({float(one[0, 0]) for one in found}) == 12


def test_errors(build: Build, images: Callable[..., Tensor]) -> None:
    model, swin = build("vit"), build("swin")
    x = images(model, 1)
    for heads, complaint in (
        ({3: [0]}, "layer=3 is not among 3 attention layers; try 2 or -1"),
        ({-4: [0]}, "layer=-4 is not among 3 attention layers; try 2 or -1"),
        ({0: [0, 2]}, "head=2 is not among 2; try 1"),
        ({0: [-1]}, "head=-1 is not among 2; try 1"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            ablate(model, x, heads=heads)
    everything = [(row, column) for row in range(4) for column in range(6)]
    for cells, how, complaint in (
        ([(4, 0)], "cover", r"cell \(4, 0\) is not among 4 x 6; try \(3, 5\)"),
        ([(0, -1)], "drop", r"cell \(0, -1\) is not among 4 x 6; try \(3, 5\)"),
        (everything, "drop", "no cell would be left; keep at least one"),
        ([(0, 0)], "hide", "how='hide' is unknown; choose cover or drop"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            ablate(model, x, cells=cells, how=how)
    with pytest.raises(ConfigError, match="Swin needs its map whole, .*; set how='cover'"):
        ablate(swin, images(swin, 1), cells=[(0, 0)], how="drop")
    with pytest.raises(ConfigError, match="side=16 is for cells that are covered"):
        ablate(model, x, cells=[(0, 0)], how="drop", side=16)
    with pytest.raises(ConfigError, match="side=0 is less than 1; try 16"):
        ablate(model, x, cells=[(0, 0)], side=0)
    cnn = vitkit.create_model("convnet_3_32", num_classes=3)
    with pytest.raises(ConfigError, match="ConvNet has no attention"):
        head_effects(cnn, torch.zeros(1, 3, 32, 32), Target(torch.tensor([0])))
