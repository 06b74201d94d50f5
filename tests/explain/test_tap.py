"""The tap: the right maps, of the chosen layers alone, from a model that nobody changed."""

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.sites import find_sites
from vitkit.explain.tap import fixed_reading, pool_with_map, tap, trace
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
Images = Callable[..., Tensor]
ByHand = Callable[[Backbone, Tensor], Any]
FAMILIES = [
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


def listeners(model: nn.Module) -> list[Any]:
    """What every layer with a tap has there."""
    return [m.on_map for m in model.modules() if hasattr(m, "on_map")]


def heard(model: Backbone, x: Tensor, layers: list[int] | None = None) -> dict[int, Tensor]:
    maps: dict[int, Tensor] = {}
    with torch.no_grad():
        tap(model, maps.__setitem__, layers)(x)
    return maps


@pytest.mark.parametrize("size", [None, (44, 61)])
@pytest.mark.parametrize("name", FAMILIES)
def test_maps_and_reading_are_those_written_out(
    name: str, size: tuple[int, int] | None, build: Build, images: Images, by_hand: ByHand
) -> None:
    model = build(name)
    x = images(model, 2, size)
    expected = by_hand(model, x)
    with torch.no_grad():
        seen = trace(model, x)
    torch.testing.assert_close(seen.logits, expected.logits)
    torch.testing.assert_close(seen.reading, expected.reading)
    assert len(seen.maps) == len(seen.sites) == len(expected.maps)
    for site, maps, whole, tokens in zip(
        seen.sites, seen.maps, expected.maps, expected.tokens, strict=True
    ):
        torch.testing.assert_close(site.expand(maps), whole[..., :tokens, :tokens].detach())
        row_sums = whole.mean(1).sum(-1)[:, :tokens].detach()
        torch.testing.assert_close(site.sums(maps.mean(1, keepdim=True)), row_sums)


@pytest.mark.parametrize("name", ["vit", "cct", "swin", "swinv2"])
def test_tapped_answers_are_the_models(name: str, build: Build, images: Images) -> None:
    model = build(name)
    x = images(model, 2)
    with torch.no_grad():
        torch.testing.assert_close(tap(model, lambda *_: None)(x), model(x))


@pytest.mark.parametrize(
    ("asked", "told"), [([1], [1]), ([-1], [2]), ([-3, 2], [0, 2]), ([], []), (None, [0, 1, 2])]
)
def test_only_chosen_layers_are_told_first_to_last(
    asked: list[int] | None, told: list[int], build: Build, images: Images
) -> None:
    model = build("vit")
    x = images(model, 1)
    maps, everything = heard(model, x, asked), heard(model, x)
    assert list(maps) == told
    for layer in told:
        torch.testing.assert_close(maps[layer], everything[layer])


@pytest.mark.parametrize(("name", "layers"), [("vit", 3), ("swin", 6)])
def test_other_layers_run_the_fused_kernel(
    name: str, layers: int, build: Build, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name)
    x = images(model, 1)
    kernel, calls = F.scaled_dot_product_attention, []

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    for asked, fused in ((None, 0), ([0], layers - 1), ([0, -1], layers - 2), ([], layers)):
        calls.clear()
        heard(model, x, asked)
        assert len(calls) == fused


def test_maps_come_as_they_are_made_and_are_freed_when_not_kept(
    build: Build, images: Images
) -> None:
    model = build("vit")
    alive: list[weakref.ref[Tensor]] = []
    reached: list[int] = []
    order: list[tuple[int, list[int]]] = []

    def listen(layer: int, maps: Tensor) -> None:
        assert [ref() for ref in alive] == [None] * layer
        alive.append(weakref.ref(maps))
        order.append((layer, list(reached)))

    for i, block in enumerate(model.get_submodule("blocks").children()):
        block.register_forward_hook(lambda *_, i=i: reached.append(i))
    with torch.no_grad():
        tap(model, listen)(images(model, 1))
    assert order == [(0, []), (1, [0]), (2, [0, 1])]


@pytest.mark.parametrize("name", ["attention pool", "cct", "swin"])
def test_the_model_is_never_changed(name: str, build: Build, images: Images) -> None:
    model = build(name)
    x = images(model, 2)
    modules = dict(model.named_modules())
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def listen(layer: int, maps: Tensor) -> None:
        assert listeners(model) == [None] * len(listeners(model))

    with torch.no_grad():
        tap(model, listen)(x)
    trace(model, x)
    assert listeners(model) and listeners(model) == [None] * len(listeners(model))
    assert dict(model.named_modules()) == modules
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_listener_that_fails_leaves_nothing_behind(build: Build, images: Images) -> None:
    model = build("vit")
    x = images(model, 1)

    def listen(layer: int, maps: Tensor) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"), torch.no_grad():
        tap(model, listen)(x)
    assert listeners(model) == [None] * 3
    assert heard(model, x).keys() == {0, 1, 2}


def test_a_copys_weights_are_the_models(build: Build, images: Images) -> None:
    model = build("vit")
    maps: list[Tensor] = []
    watched = tap(model, lambda _, each: maps.append(each), [0])
    x = images(model, 1)
    with torch.no_grad():
        watched(x)
        model.get_parameter("blocks.0.attn.qkv.weight").mul_(2)
        watched(x)
    torch.testing.assert_close(maps[1], heard(model, x, [0])[0])
    assert not torch.allclose(maps[0], maps[1])


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_threads_tap_and_predict_at_once(name: str, build: Build, images: Images) -> None:
    model = build(name)
    inputs = [images(model, 2) + step for step in range(3)]
    with torch.no_grad():
        answers = [model(x) for x in inputs]
        expected = [heard(model, x, [0]) | heard(model, x, [2]) for x in inputs]
    barrier, rounds = Barrier(3), 8

    def listen_to(layer: int) -> None:
        for step in range(rounds):
            barrier.wait(10)
            x = inputs[step % 3]
            maps = heard(model, x, [layer])
            assert list(maps) == [layer]
            torch.testing.assert_close(maps[layer], expected[step % 3][layer], rtol=0, atol=0)

    def predict() -> None:
        for step in range(rounds):
            barrier.wait(10)
            with torch.no_grad():
                answer = model(inputs[step % 3])
            torch.testing.assert_close(answer, answers[step % 3], rtol=0, atol=0)
            assert listeners(model) == [None] * len(listeners(model))

    with ThreadPoolExecutor(3) as pool:
        work = [pool.submit(listen_to, 0), pool.submit(listen_to, 2), pool.submit(predict)]
        for each in work:
            each.result(30)


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_there_is_not(layer: int, build: Build) -> None:
    message = f"layer={layer} is not among 3 attention layers; try 2 or -1"
    with pytest.raises(ConfigError, match=message):
        tap(build("vit"), lambda *_: None, [layer])


def test_a_model_without_attention() -> None:
    model = vitkit.create_model("convnet_3_32", num_classes=2)
    for run in (lambda: tap(model, lambda *_: None), lambda: trace(model, torch.zeros(1, 3, 8, 8))):
        with pytest.raises(ConfigError, match="ConvNet has no attention"):
            run()


@pytest.mark.parametrize(
    ("name", "tokens", "cells"),
    [
        ("vit", [1], 0),
        ("registers", [1, 0, 0], 0),
        ("deit", [0.5, 0.5], 0),
        ("mean", [0], 1 / 24),
        ("both", [0.5], 1 / 48),
        ("attention pool", [0, 0], 1 / 24),
        ("no class token", [], 1 / 24),
        ("cct", [], 1 / 24),
        ("swin", [], 1 / 140),
    ],
)
def test_fixed_reading(name: str, tokens: list[float], cells: float, build: Build) -> None:
    model = build(name)
    site = find_sites(model, model.config.image_size)[0]
    expected = torch.full((site.tokens,), float(cells))
    expected[: len(tokens)] = torch.tensor(tokens)
    torch.testing.assert_close(fixed_reading(model, site), expected)


def test_what_pools_by_attention(build: Build) -> None:
    pools = {name: pool_with_map(build(name)) for name in ("vit", "attention pool", "cct", "swin")}
    assert pools == {"vit": None, "attention pool": "attn_pool", "cct": "pool", "swin": None}


def test_maps_of_a_frozen_model_have_gradients(build: Build, images: Images) -> None:
    model = build("vit").requires_grad_(False)
    x = images(model, 1)
    seen = trace(model, x)
    assert all(maps.requires_grad for maps in seen.maps)
    assert not x.requires_grad and x.grad is None
    with torch.no_grad():
        assert not any(maps.requires_grad for maps in trace(model, x).maps)
