"""Cascading randomisation: what is forgotten, and what maps make of it."""

import json

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.methods import METHODS, Method
from vitkit.explain.randomisation import Cascade, _cascade, randomise, rank_correlation
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone
from vitkit.progress import Progress

SIZE = (32, 48)
MODELS = {
    "vit_tiny_patch16_224": {"patch_size": 8, "dim": 32, "depth": 3, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"dim": 16, "depths": (1, 2), "num_heads": (1, 2)},
    "resnet18": {"dim": 8},
}


def trained(name: str) -> Backbone:
    """A model whose every number is unlike that of a new one."""
    torch.manual_seed(0)
    model = vitkit.create_model(name, image_size=SIZE, num_classes=5, **MODELS[name])
    for value in model.state_dict().values():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.1, 0.5)
            value.mul_(torch.randn_like(value).sign() if value.ndim > 1 else 1)
    return model.eval()


@pytest.fixture
def images() -> tuple[Tensor, Target]:
    x = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    return x, Target(torch.tensor([0, 1, 4]))


@pytest.mark.parametrize("values", [7, 1000])
def test_rank_correlation_is_scipys(values: int) -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(values, size=(2, 6, 9)).astype(np.float32)  # 7: with many ties
    expected = scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic
    assert rank_correlation(one, other) == pytest.approx(expected)
    assert rank_correlation(one, -one) == pytest.approx(-1)


def test_rank_correlation_of_constant_maps() -> None:
    even, other = np.zeros((2, 3)), np.arange(6.0).reshape(2, 3)
    assert rank_correlation(even, even) == 1
    assert rank_correlation(even, other) == 0


@pytest.mark.parametrize("name", MODELS)
def test_forgets_from_the_head_down(name: str) -> None:
    """Step by step layers become those of a new model of the seed, buffers too; others stay."""
    model = trained(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers = model.layer_of_parameters()
    depth = max(layers.values())
    torch.manual_seed(7)
    new = vitkit.create_model(name, image_size=SIZE, num_classes=5, **MODELS[name]).state_dict()
    parts = []
    for step, (part, forgetful) in enumerate(_cascade(model, 7)):
        parts.append(part)
        for key, value in forgetful.state_dict().items():
            if key in layers:
                expected = new if layers[key] >= depth - step else before
                assert torch.equal(value, expected[key]), (part, key)
    assert parts == ["head", *(f"block {i}" for i in range(depth - 1, 0, -1)), "embedding"]
    for key, value in forgetful.state_dict().items():
        assert torch.equal(value, new[key]), key
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_random_numbers_of_others_go_on_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    model = trained("vit_tiny_patch16_224")
    torch.manual_seed(3)
    for _ in _cascade(model, 0):
        pass
    assert torch.equal(torch.rand(2), expected)


def test_methods_that_ignore_the_model_are_flagged(
    images: tuple[Tensor, Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bright(model: Backbone, x: Tensor, target: Target) -> Tensor:
        return nn.functional.avg_pool2d(x.mean(dim=1), 8)

    monkeypatch.setitem(METHODS, "bright", Method(bright, "Brightness.", "none"))
    said: list[Progress] = []
    model = trained("vit_tiny_patch16_224")
    methods = ["attention", "relevance", "gradcam", "bright", "random"]
    found = {c.method: c for c in randomise(model, *images, methods=methods, listen=said.append)}
    assert list(found) == methods
    for name, cascade in found.items():
        assert cascade.parts == ("head", "block 3", "block 2", "block 1", "embedding")
        assert cascade.looks_at_the_model == (name not in ("bright", "random"))
    assert set(found["bright"].correlations) == set(found["random"].correlations) == {1.0}
    assert found["attention"].correlations[0] == 1.0  # the head does not matter to it
    assert found["relevance"].correlations[0] < 0.999
    assert [(p.done, p.total) for p in said] == [(i, 5) for i in range(1, 6)]


def test_correlations_are_those_of_maps_of_each_image(images: tuple[Tensor, Target]) -> None:
    model = trained("vit_tiny_patch16_224")
    (cascade,) = randomise(
        model, *images, methods=["rollout"], options={"rollout": {"fusion": "max"}}
    )
    first = METHODS["rollout"].run(model, *images, fusion="max").numpy()
    steps = zip(_cascade(model, 0), cascade.correlations, strict=True)
    for (_, forgetful), correlation in steps:
        grids = METHODS["rollout"].run(forgetful, *images, fusion="max").numpy()
        each = [
            scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic
            for a, b in zip(first, grids, strict=True)
        ]
        assert correlation == pytest.approx(np.mean(each), abs=1e-6)
    again = randomise(model, *images, methods=["rollout"], options={"rollout": {"fusion": "max"}})
    assert again == (cascade,)


def test_all_methods_of_a_model_without_attention(images: tuple[Tensor, Target]) -> None:
    options = {"integrated_gradients": {"steps": 2}, "occlusion": {"size": 16}}
    found = randomise(trained("resnet18"), *images, options=options)
    assert [c.method for c in found] == ["gradcam", "integrated_gradients", "occlusion", "random"]
    assert json.loads(json.dumps([c.to_json() for c in found]))[-1]["looks_at_the_model"] is False


def test_the_limit() -> None:
    assert Cascade("m", ("head", "embedding"), (1.0, 0.2)).looks_at_the_model
    assert not Cascade("m", ("head", "embedding"), (0.2, 0.95)).looks_at_the_model


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"methods": ["rolout"]}, "no method is called 'rolout'"),
        ({"options": {"rollout": {"steps": 3}}}, "rollout has no option 'steps'"),
    ],
)
def test_refuses(
    images: tuple[Tensor, Target], arguments: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        randomise(trained("vit_tiny_patch16_224"), *images, **arguments)
