"""The control: random, but the same for the same image and seed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import vitkit
from vitkit.explain.control import control
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
Images = Callable[..., Tensor]
TARGET = Target(torch.tensor([1]))


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [("vit", (32, 48), (4, 6)), ("vit", (33, 48), (5, 6)), ("swin", (40, 56), (10, 14))],
)
def test_has_the_grid_of_the_model(
    name: str, size: tuple[int, int], grid: tuple[int, int], build: Build, images: Images
) -> None:
    model = build(name)
    assert control(model, images(model, 2, size), TARGET).shape == (2, *grid)


def test_has_cells_of_16_pixels_where_there_is_no_grid() -> None:
    model = vitkit.create_model("convnet_3_32", num_classes=2)
    assert control(model, torch.zeros(1, 3, 33, 48), TARGET).shape == (1, 3, 3)


def test_an_image_has_its_own_map_wherever_it_stands(build: Build, images: Images) -> None:
    model = build("vit")
    x = images(model, 3)
    drawn = control(model, x, TARGET)
    assert torch.equal(control(model, x.flip(0), TARGET), drawn.flip(0))
    assert torch.equal(control(model, x, Target(torch.tensor([2]))), drawn)
    assert len({tuple(each.flatten().tolist()) for each in drawn}) == 3
    touched = x.clone()
    touched[0, 0, 0, 0] += 1
    again = control(model, touched, TARGET)
    assert not torch.equal(again[0], drawn[0]) and torch.equal(again[1:], drawn[1:])


def test_seeds_differ(build: Build, images: Images) -> None:
    model = build("vit")
    x = images(model, 1)
    drawn = [control(model, x, TARGET, seed=seed) for seed in (0, 1, 2)]
    assert torch.equal(drawn[0], control(model, x, TARGET))
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_values_are_uniform_from_0_to_1(build: Build) -> None:
    model = build("swin")
    x = torch.randn(100, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    drawn = control(model, x, TARGET)
    assert 0 <= drawn.min() < 0.01 and 0.99 < drawn.max() < 1
    shares = np.histogram(drawn.numpy(), bins=10, range=(0, 1))[0] / drawn.numel()
    np.testing.assert_allclose(shares, 0.1, atol=0.01)  # 14,000 values: 4 deviations
    assert (drawn.mean(0) - 0.5).abs().max() < 5 * 0.29 / 10  # no cell is favoured


def test_leaves_torchs_own_generator_alone(build: Build, images: Images) -> None:
    model = build("vit")
    x = images(model, 1)
    before = torch.get_rng_state()
    control(model, x, TARGET)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_type_and_pixels_with_gradients(
    dtype: torch.dtype, build: Build, images: Images
) -> None:
    model = build("vit")
    x = images(model, 2).to(dtype).requires_grad_()
    assert torch.equal(control(model, x, TARGET), control(model, x.detach().float(), TARGET))
