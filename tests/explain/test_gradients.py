"""Grad-CAM and integrated gradients against pytorch-grad-cam and captum."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.gradients import gradcam, integrated_gradients
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
Images = Callable[..., Tensor]
TARGET = Target(torch.tensor([1, 3]))
AGAINST = Target(torch.tensor([1, 3]), torch.tensor([0, 4]))


class Score(nn.Module):
    """A model whose only answer is the score of a target: (B, C, H, W) -> (B,)."""

    def __init__(self, model: nn.Module, target: Target) -> None:
        super().__init__()
        self.model, self.target = model, target

    def forward(self, x: Tensor) -> Tensor:
        logits, rows = self.model(x), torch.arange(len(x))
        said = logits[rows, self.target.label]
        against = self.target.against
        return said if against is None else said - logits[rows, against]


def theirs(model: nn.Module, x: Tensor, target: Target, layer: str, reshape: Any) -> Any:
    """pytorch-grad-cam's map of every image, before it is scaled and resized: (B, h, w)."""
    part, targets = model.get_submodule(layer), [lambda said: said] * len(x)
    with GradCAM(Score(model, target), [part], reshape_transform=reshape) as cam:
        cam(x, targets=targets)
        kept = cam.activations_and_grads
        features, slopes = (each[0].numpy() for each in (kept.activations, kept.gradients))
        return np.maximum(cam.get_cam_image(x, part, targets, features, slopes), 0)


def after_prefix(prefix: int, grid: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    return lambda t: t[:, prefix:].mT.unflatten(2, grid)


@pytest.mark.parametrize("target", [TARGET, AGAINST])
@pytest.mark.parametrize(
    ("name", "size", "layer", "reshape"),
    [
        ("vit", (32, 48), "blocks.2.norm1", after_prefix(1, (4, 6))),
        ("mean", (37, 50), "blocks.2.norm1", after_prefix(1, (5, 7))),
        ("registers", (32, 48), "blocks.2.norm1", after_prefix(3, (4, 6))),
        ("deit", (32, 48), "blocks.2.norm1", after_prefix(2, (4, 6))),
        ("cct", (16, 24), "blocks.1.norm1", after_prefix(0, (4, 6))),
        ("swin", (40, 56), "layers.2.blocks.1.norm1", lambda t: t.permute(0, 3, 1, 2)),
        ("swin", (44, 61), "layers.2.blocks.1.norm1", lambda t: t.permute(0, 3, 1, 2)),
        ("swinv2", (40, 56), "layers.2.blocks.1.norm1", lambda t: t.permute(0, 3, 1, 2)),
    ],
)
def test_gradcam_of_tokens(
    name: str,
    size: tuple[int, int],
    layer: str,
    reshape: Any,
    target: Target,
    build: Build,
    images: Images,
) -> None:
    model = build(name)
    x = images(model, 2, size)
    found = gradcam(model, x, target).numpy()
    assert found.max() > 0
    expected = theirs(model, x, target, layer, reshape)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", [TARGET, AGAINST])
def test_gradcam_of_a_cnn(target: Target) -> None:
    torch.manual_seed(1)
    model = vitkit.create_model("resnet18", num_classes=5, dim=8).double().eval()
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    found = gradcam(model, x, target).numpy()
    assert found.shape == (2, 2, 3) and (found.max(axis=(1, 2)) > 0).all()
    expected = theirs(model, x, target, "layer4.1", None)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("target", [TARGET, AGAINST])
@pytest.mark.parametrize(("name", "baseline"), [("vit", 0.0), ("swin", 0.3)])
def test_integrated_gradients(
    name: str, baseline: float, target: Target, build: Build, images: Images
) -> None:
    model = build(name)
    x = images(model, 2)
    found = integrated_gradients(model, x, target, steps=20, baseline=baseline)
    rows = []
    for b in range(2):
        one = Target(*(None if t is None else t[b : b + 1] for t in (target.label, target.against)))
        score = Score(model, one.repeat(20))
        oracle = IntegratedGradients(score)
        image = x[b : b + 1]
        rows.append(oracle.attribute(image, baseline, n_steps=20, method="gausslegendre").sum(1))
    assert found.shape == (2, *x.shape[2:])
    torch.testing.assert_close(found, torch.cat(rows), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_integrated_gradients_add_up_to_the_difference(
    count: int, build: Build, images: Images
) -> None:
    """For batches below, and above, the number of images run at once."""
    model = build("vit", depth=1, image_size=(16, 16))
    x = images(model, count) / 8
    target = Target(torch.arange(count) % 5, (torch.arange(count) + 2) % 5)
    found = integrated_gradients(model, x, target, steps=24, baseline=0.1)
    with torch.no_grad():
        difference = target.score(model(x)) - target.score(model(torch.full_like(x, 0.1)))
    assert difference.abs().max() > 0.02
    torch.testing.assert_close(found.sum((1, 2)), difference, rtol=0, atol=1e-4)


def test_integrated_gradients_of_no_step(build: Build, images: Images) -> None:
    model = build("vit")
    with pytest.raises(ConfigError, match="steps=0 is less than 1; try 50"):
        integrated_gradients(model, images(model, 1), TARGET, steps=0)
