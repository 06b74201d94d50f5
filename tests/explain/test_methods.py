"""What holds for every method, on every family: sizes, batches, types, threads, nothing changed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.methods import (
    METHODS,
    default_method,
    explain_batch,
    find_method,
    methods_for,
)
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
Images = Callable[..., Tensor]
TARGET = Target(torch.tensor([1, 3]), torch.tensor([0, 4]))
QUICK: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 3},
    "occlusion": {"size": 16, "stride": 8},
}
FAMILIES = ["registers", "attention pool", "no class token", "deit", "stem", "cct", "swin"]


def explained(
    model: Backbone, x: Tensor, method: str, target: Target = TARGET, **options: Any
) -> Tensor:
    return explain_batch(model, x, method, target, **QUICK.get(method, {}), **options)


@pytest.fixture
def cnn() -> Backbone:
    torch.manual_seed(0)
    return vitkit.create_model("convnet_3_32", num_classes=5, dims=(8, 16)).double().eval()


def grid_of(method: str, model: Backbone, size: tuple[int, int]) -> tuple[int, int]:
    """What a method's map should measure."""
    if method == "integrated_gradients":
        return size
    if method == "occlusion":
        return -(-size[0] // 8), -(-size[1] // 8)
    info = model.feature_info
    deep = hasattr(model, "layers") and method in ("attention", "legrad", "gradcam")
    cell = info[-1 if deep else 0]["reduction"]
    return -(-size[0] // cell), -(-size[1] // cell)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_on_every_family(name: str, build: Build, images: Images) -> None:
    """Sizes that are not square nor whole patches; one by one as together; the model untouched."""
    model = build(name)
    x = images(model, 2, (26, 44))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    pixels = x.clone()
    for method, known in METHODS.items():
        maps = explained(model, x, method)
        assert maps.shape == (2, *grid_of(method, model, (26, 44))), method
        assert maps.dtype == torch.float32 and maps.isfinite().all() and not maps.requires_grad
        assert (maps.min() < 0) == known.signed, method
        for b in range(2):
            one = Target(TARGET.label[b : b + 1], torch.tensor([[0, 4][b]]))
            alone = explained(model, x[b : b + 1], method, one)
            torch.testing.assert_close(alone[0], maps[b], msg=method)
    assert torch.equal(x, pixels) and not x.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    taps = [module.on_map for module in model.modules() if hasattr(module, "on_map")]
    assert taps and taps == [None] * len(taps)


@pytest.mark.parametrize("name", ["vit", "swinv2"])
def test_what_is_for_a_class_depends_on_it(name: str, build: Build, images: Images) -> None:
    model = build(name)
    x = images(model, 2)
    asked = [TARGET, Target(TARGET.label), Target(torch.tensor([2, 2]))]
    for method, known in METHODS.items():
        maps = [explained(model, x, method, target) for target in asked]
        for other in maps[1:]:
            assert torch.equal(maps[0], other) is not known.for_class, method


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_a_contrast_is_the_difference_where_maps_are_linear_in_the_score(
    method: str, build: Build, images: Images
) -> None:
    model = build("vit")
    x = images(model, 2)
    assert TARGET.against is not None
    own, others = (
        explained(model, x, method, Target(label)) for label in (TARGET.label, TARGET.against)
    )
    torch.testing.assert_close(explained(model, x, method), own - others, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["deit", "swin"])
def test_inside_inference_mode(name: str, build: Build, images: Images) -> None:
    """Pixels and classes, too, may have been made there; and gradients stay off outside."""
    model = build(name)
    x = images(model, 2)
    for method in METHODS:
        expected = explained(model, x, method)
        with torch.inference_mode():
            inside, target = x.clone(), Target(TARGET.label.clone(), torch.tensor([0, 4]))
            torch.testing.assert_close(explained(model, inside, method, target), expected)
            assert torch.is_inference_mode_enabled()
        with torch.no_grad():
            torch.testing.assert_close(explained(model, x, method), expected)
            assert not torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["deit", "cct", "swin"])
def test_a_frozen_model(name: str, build: Build, images: Images) -> None:
    model = build(name)
    x = images(model, 2)
    expected = {method: explained(model, x, method) for method in METHODS}
    model.requires_grad_(False)
    for method in METHODS:
        torch.testing.assert_close(explained(model, x, method), expected[method], msg=method)


def test_a_frozen_cnn(cnn: Backbone) -> None:
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    expected = explained(cnn, x, "gradcam")
    assert expected.shape == (2, 4, 6) and expected.max() > 0
    torch.testing.assert_close(explained(cnn.requires_grad_(False), x, "gradcam"), expected)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.2)], ids=str
)
@pytest.mark.parametrize("name", ["registers", "cct", "swin", "swinv2"])
def test_other_types(
    name: str, dtype: torch.dtype, tolerance: float, build: Build, images: Images
) -> None:
    """Against float64, as a part of the largest value."""
    model = build(name)
    x = images(model, 2).to(dtype).double()
    expected = {method: explained(model, x, method) for method in METHODS}
    model.to(dtype)
    for method, reference in expected.items():
        maps = explained(model, x.to(dtype), method)
        assert maps.dtype == torch.float32
        gap = (maps - reference).abs().max() / reference.abs().max()
        assert gap < tolerance, (method, gap)


def test_threads_explain_and_predict_at_once(build: Build, images: Images) -> None:
    model = build("vit", depth=2)
    x = images(model, 2)
    with torch.no_grad():
        answer = model(x)
    names = ["attention", "relevance", "legrad", "gradcam", "gradient_rollout"] * 2
    expected = {name: explained(model, x, name) for name in names}

    def predict(_: int) -> Tensor:
        with torch.inference_mode():
            return model(x).clone()

    with ThreadPoolExecutor(3) as pool:
        predictions = pool.map(predict, range(20))
        for name, maps in zip(
            names, pool.map(lambda n: explained(model, x, n), names), strict=True
        ):
            torch.testing.assert_close(maps, expected[name], rtol=0, atol=0)
        for each in predictions:
            torch.testing.assert_close(each, answer, rtol=0, atol=0)


def test_methods_for_a_model(cnn: Backbone, build: Build) -> None:
    assert methods_for(build("vit")) == methods_for(build("swin")) == tuple(METHODS)
    assert methods_for(cnn) == ("gradcam", "integrated_gradients", "occlusion", "random")
    assert default_method(build("cct")) == "relevance" and default_method(cnn) == "gradcam"


def test_methods_that_need_attention_say_what_needs_none(cnn: Backbone) -> None:
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    for method in METHODS:
        if method in methods_for(cnn):
            assert explained(cnn, x, method).isfinite().all()
            continue
        with pytest.raises(ConfigError, match="ConvNet has no attention to look at; choose gradc"):
            explained(cnn, x, method)


def test_options_reach_the_method(build: Build, images: Images) -> None:
    model = build("vit")
    x = images(model, 2)
    for method, options in (
        ("attention", {"layer": 0}),
        ("attention", {"head": 1}),
        ("attention", {"fusion": "max"}),
        ("rollout", {"fusion": "min"}),
        ("gradient_rollout", {"fusion": "max"}),
        ("integrated_gradients", {"baseline": 0.5}),
        ("occlusion", {"baseline": 0.5}),
        ("random", {"seed": 1}),
    ):
        assert set(options) <= set(METHODS[method].options)
        assert not torch.equal(explained(model, x, method, **options), explained(model, x, method))


def test_every_method_has_its_options() -> None:
    assert {name: method.options for name, method in METHODS.items()} == {
        "attention": ("layer", "head", "fusion"),
        "rollout": ("fusion",),
        "gradient_rollout": ("fusion",),
        "relevance": (),
        "legrad": (),
        "gradcam": (),
        "integrated_gradients": ("steps", "baseline"),
        "occlusion": ("size", "stride", "baseline"),
        "random": ("seed",),
    }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rolout", {}, "no method is called 'rolout', did you mean 'rollout'"),
        ("zzz", {}, "no method is called 'zzz'; there are attention, rollout, "),
        ("attention", {"layers": 1}, "attention has no option 'layers', did you mean 'layer'"),
        ("relevance", {"head": 1}, "relevance has no option 'head'; it has none"),
        ("occlusion", {"model": 1}, "occlusion has no option 'model'; it has size, stride, base"),
    ],
)
def test_unknown_names(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_method(name, options)


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("attention", "layer", 1.5, "layer=1.5 of attention is not a whole number; by default"),
        ("attention", "layer", True, "layer=True of attention is not a whole number"),
        ("attention", "layer", None, "layer=None of attention is not a whole number"),
        ("attention", "head", "x", "head='x' of attention is not a whole number or None"),
        ("attention", "head", False, "head=False of attention is not a whole number or None"),
        ("attention", "fusion", "sum", "fusion='sum' of attention is not mean, max or min; by"),
        ("rollout", "fusion", ["max"], r"fusion=\['max'\] of rollout is not mean, max or min"),
        ("integrated_gradients", "steps", "abc", "steps='abc' .* is not a whole number; .* 50"),
        ("integrated_gradients", "baseline", "foo", "baseline='foo' .* is not a finite number"),
        ("integrated_gradients", "baseline", [0, 0], r"baseline=\[0, 0\] .* a finite number"),
        ("integrated_gradients", "baseline", float("nan"), "baseline=nan .* a finite number"),
        ("occlusion", "baseline", 10**400, "baseline=1000.* is not a finite number"),
        ("occlusion", "baseline", True, "baseline=True of occlusion is not a finite number"),
        ("occlusion", "size", 2.0, "size=2.0 of occlusion is not a whole number or None"),
        ("random", "seed", "x", "seed='x' of random is not a whole number; by default it is 0"),
    ],
)
def test_values_of_another_kind(
    name: str, option: str, value: Any, message: str, build: Build, images: Images
) -> None:
    model = build("vit")
    with pytest.raises(ConfigError, match=message) as error:
        explain_batch(model, images(model, 2), name, TARGET, **{option: value})
    assert len(str(error.value)) < 150


def test_numbers_of_numpy_are_numbers(build: Build, images: Images) -> None:
    model = build("vit")
    x = images(model, 2)
    for name, given, plain in (
        ("attention", {"layer": np.int64(0), "head": None}, {"layer": 0}),
        ("occlusion", {"baseline": np.float64(0.5)}, {"baseline": 0.5}),
        ("occlusion", {"baseline": 1}, {"baseline": 1.0}),
    ):
        assert torch.equal(explained(model, x, name, **given), explained(model, x, name, **plain))


def test_every_option_is_of_a_kind_that_is_checked() -> None:
    for name, method in METHODS.items():
        for option, parameter in method.parameters.items():
            find_method(name, {option: parameter.default})
            with pytest.raises(ConfigError, match=f" of {name} is not "):
                find_method(name, {option: object()})


def test_a_model_in_training_is_refused_and_stays_as_it_was(build: Build, images: Images) -> None:
    """Its batch norms would learn from what is explained."""
    model = build("stem").train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"cannot be explained; call model.eval\(\) first"):
        explained(model, images(model, 2), "relevance")
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_an_unknown_option_is_refused_before_any_work(build: Build) -> None:
    with pytest.raises(ConfigError, match="it has layer, head, fusion"):
        explain_batch(build("vit"), torch.empty(0), "attention", TARGET, depth=1)
