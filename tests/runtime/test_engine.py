"""The engine gives what the model gives, for pixels."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vitkit.data.transforms import Preprocess
from vitkit.errors import ConfigError
from vitkit.models import create_model
from vitkit.models.backbone import Backbone
from vitkit.runtime.device import Precision
from vitkit.runtime.engine import Engine

TINY = {"image_size": (32, 48), "patch_size": 8, "dim": 32, "depth": 2, "num_heads": 4}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", TINY),
    ("vit_tiny_patch16_224", TINY | {"pool": "mean", "dropout": 0.5, "drop_path": 0.5}),
    ("deit_tiny_distilled_patch16_224", TINY),
    (
        "swin_tiny_patch4_window7_224",
        {"image_size": (32, 48), "dim": 16, "depths": (2, 2), "num_heads": (2, 4)},
    ),
]
PREPROCESS = Preprocess(image_size=(32, 48), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
CPU = torch.device("cpu")
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA"))
each_model = pytest.mark.parametrize(("name", "settings"), MODELS)


def random_model(name: str, settings: dict[str, Any]) -> Backbone:
    torch.manual_seed(0)
    model = create_model(name, num_classes=7, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.train()


def pictures() -> tuple[list[np.ndarray[Any, np.dtype[np.uint8]]], Tensor]:
    """Images of three sizes, and the batch that they make."""
    rng = np.random.default_rng(0)
    sizes = [(40, 50, 3), (32, 48, 3), (90, 31, 3)]
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    return images, torch.from_numpy(np.stack([PREPROCESS.fit(image) for image in images]))


def check(given: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert given.dtype == torch.float32 and given.device == CPU
    assert not given.requires_grad
    torch.testing.assert_close(given, expected.detach().cpu(), rtol=0, atol=tolerance)


@each_model
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_probabilities(name: str, settings: dict[str, Any], device: str) -> None:
    model = random_model(name, settings)
    engine = Engine(model, PREPROCESS, device=torch.device(device))
    assert not model.training and engine.model is model
    images, batch = pictures()
    with torch.no_grad():
        logits = torch.cat([model(PREPROCESS(image)[None].to(device)) for image in images])
    given = engine.probabilities(batch)
    check(given, logits.softmax(-1))
    check(given.sum(-1), torch.ones(3))
    assert given.std() > 1e-3  # and is no flat answer


def test_probabilities_are_of_logits_over_the_temperature() -> None:
    model = random_model(*MODELS[0])
    engine = Engine(model, PREPROCESS, device=CPU, temperature=3.0)
    images, batch = pictures()
    with torch.no_grad():
        logits = torch.cat([model(PREPROCESS(image)[None]) for image in images])
    check(engine.logits(batch), logits, 1e-4)
    check(engine.probabilities(batch), (logits / 3).softmax(-1))


@each_model
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_features(name: str, settings: dict[str, Any], device: str) -> None:
    model = random_model(name, settings)
    images, batch = pictures()
    given = Engine(model, PREPROCESS, device=torch.device(device)).features(batch)
    assert given.shape == (3, model.num_features)
    with torch.no_grad():
        inputs = torch.stack([PREPROCESS(image) for image in images]).to(device)
        tokens = model.forward_features(inputs)
        check(given, model.forward_head(tokens, pre_logits=True), 1e-4)


@each_model
def test_bf16_is_near(name: str, settings: dict[str, Any]) -> None:
    """It differs, as it rounds to 8 bits, and not by much."""
    model = random_model(name, settings)
    _, batch = pictures()
    exact, rounded = (
        Engine(model, PREPROCESS, device=CPU, precision=precision).probabilities(batch)
        for precision in ("fp32", "bf16")
    )
    check(rounded, exact, 0.1)
    check(rounded.sum(-1), torch.ones(3))
    assert not torch.equal(rounded, exact)


@pytest.mark.parametrize("precision", ["fp8", "half"])
def test_an_unknown_precision_is_refused_at_once(precision: Precision) -> None:
    model = random_model(*MODELS[0])
    with pytest.raises(ConfigError, match="precision"):
        Engine(model, PREPROCESS, device=CPU, precision=precision)
