"""timm's models as the reference for ours."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

from vitkit.models import create_model

Build = Callable[..., nn.Module]
Pair = Callable[[str, dict[str, Any], dict[str, Any]], tuple[nn.Module, nn.Module]]


@pytest.fixture
def timm_model() -> Build:
    """Build timm's model without memory, on the meta device; with 1000 classes if not told."""

    def build(name: str, **settings: Any) -> nn.Module:
        with torch.device("meta"):
            return timm.create_model(name, **{"num_classes": 1000, **settings})

    return build


@pytest.fixture
def our_model() -> Build:
    """Build our model without memory, on the meta device."""

    def build(name: str, **settings: Any) -> nn.Module:
        with torch.device("meta"):
            return create_model(name, **settings)

    return build


@pytest.fixture
def pair(timm_model: Build, our_model: Build) -> Pair:
    """Our model and timm's, given each one's settings, with the same random weights."""

    def build(
        name: str, ours: dict[str, Any], theirs: dict[str, Any]
    ) -> tuple[nn.Module, nn.Module]:
        reference, model = (
            timm_model(name, **theirs).to_empty(device="cpu"),
            our_model(name, **ours),
        )
        torch.manual_seed(0)
        randomise(reference)
        model.load_state_dict(reference.state_dict(), strict=True, assign=True)
        return model.eval(), reference.eval()

    return build


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Give every parameter random values, none of them zero: fresh ones would hide mistakes."""
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.05 if parameter.ndim > 1 else 0.2)
        if "norm" in name and name.endswith("weight"):
            parameter += 1
