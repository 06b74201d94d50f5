"""Models of other libraries with random weights, and ours made of them."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitkit.models import build
from vitkit.models.backbone import Backbone
from vitkit.weights.adapt import adapt
from vitkit.weights.describe import Told
from vitkit.weights.formats import detect, huggingface_config
from vitkit.weights.infer import recognise
from vitkit.weights.layout import Layout

Randomise = Callable[[nn.Module], nn.Module]
Translate = Callable[..., tuple[Backbone, Layout]]


@pytest.fixture
def randomised() -> Randomise:
    """No parameter or statistic keeps its first value: zeros and ones would hide mistakes."""

    @torch.no_grad()
    def randomise(model: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.05 if parameter.ndim > 1 else 0.2)
            parameter += 1.0 if parameter.ndim == 1 else 0.0
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            if name.endswith("running_mean"):
                buffer.normal_()
        return model.eval()

    return randomise


@pytest.fixture
def translate() -> Translate:
    """Our model of a state dict, with the layout that it was found to have."""

    def translate(
        tensors: Mapping[str, Tensor], *, theirs: Mapping[str, Any] | None = None, **known: Any
    ) -> tuple[Backbone, Layout]:
        told = Told(settings=known)
        if theirs is not None:
            family, settings = huggingface_config.read_config(theirs)
            told = Told(source="huggingface", family=family, settings=settings)
        layout = detect(tensors)
        ours, left = layout.read(tensors)
        assert [name for name in left if not layout.ignores(name)] == []
        config = recognise(ours, left, layout, told).config
        fitted = adapt(ours, config, config, left=left)
        model = build(config)
        model.load_state_dict({**model.state_dict(), **fitted.tensors})
        return model.eval(), layout

    return translate


@pytest.fixture
def same_logits() -> Callable[[nn.Module, nn.Module, tuple[int, int]], None]:
    """Compare two models in float64: any gap is the formula."""

    @torch.no_grad()
    def compare(ours: nn.Module, theirs: nn.Module, size: tuple[int, int]) -> None:
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        expected = theirs.double()(x)
        expected = expected if isinstance(expected, Tensor) else expected.logits
        gap = (ours.double()(x) - expected).abs().max() / expected.abs().max()
        assert gap.item() < 1e-9

    return compare
