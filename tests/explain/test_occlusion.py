"""Occlusion against plain loops: one image, one square at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.occlusion import occlusion
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
Images = Callable[..., Tensor]


def begins(side: int, size: int, stride: int) -> list[int]:
    """Every stride as long as a square fits, and one more flush with the end."""
    found, at = [], 0
    while at + size < side:
        found.append(at)
        at += stride
    return [*found, max(side - size, 0)]


def in_loops(
    model: Backbone, image: Tensor, target: Target, size: int, stride: int, baseline: float
) -> NDArray[np.float64]:
    """The map of one image, (C, H, W)."""
    height, width = image.shape[1:]
    total, times = np.zeros((height, width)), np.zeros((height, width))
    with torch.no_grad():
        whole = target.score(model(image[None])).item()
        for top in begins(height, size, stride):
            for left in begins(width, size, stride):
                covered = image.clone()
                covered[:, top : top + size, left : left + size] = baseline
                fall = whole - target.score(model(covered[None])).item()
                total[top : top + size, left : left + size] += fall
                times[top : top + size, left : left + size] += 1
    assert times.min() >= 1
    pixels = total / times
    return np.array(
        [
            [
                pixels[top : top + stride, left : left + stride].mean()
                for left in range(0, width, stride)
            ]
            for top in range(0, height, stride)
        ]
    )


@pytest.mark.parametrize(
    ("size", "stride", "baseline"),
    [(16, 8, 0.0), (16, 16, 0.5), (13, 7, 0.0), (40, 11, -1.0), (48, 48, 0.0)],
)
def test_matches_loops(
    size: int, stride: int, baseline: float, build: Build, images: Images
) -> None:
    model = build("vit", depth=1)
    x = images(model, 2)
    target = Target(torch.tensor([1, 3]), torch.tensor([4, 0]))
    found = occlusion(model, x, target, size=size, stride=stride, baseline=baseline)
    for b in range(2):
        one = Target(target.label[b : b + 1], torch.tensor([[4, 0][b]]))
        expected = in_loops(model, x[b], one, size, stride, baseline)
        assert expected.std() > 0 or expected.size < 3
        np.testing.assert_allclose(found[b].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_matches_loops_on_a_cnn_and_more_images_than_run_at_once() -> None:
    torch.manual_seed(0)
    model = vitkit.create_model("convnet_3_32", num_classes=4, dims=(4, 8)).double().eval()
    x = torch.randn(33, 3, 16, 12, dtype=torch.float64)
    target = Target(torch.arange(33) % 4)
    found = occlusion(model, x, target, size=8, stride=4)
    assert found.shape == (33, 4, 3)
    for b in (0, 32):
        expected = in_loops(model, x[b], Target(target.label[b : b + 1]), 8, 4, 0.0)
        np.testing.assert_allclose(found[b].numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "given", "meant"),
    [
        (224, {}, (32, 16)),
        (48, {}, (6, 3)),
        (8, {}, (2, 1)),
        (32, {"size": 8}, (8, 4)),
        (32, {"size": 1}, (1, 1)),
        (32, {"stride": 3}, (6, 3)),
    ],
)
def test_squares_follow_the_image(side: int, given: dict[str, int], meant: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = vitkit.create_model("convnet_3_32", num_classes=4, dims=(4, 8)).eval()
    x, target = torch.randn(1, 3, side, side), Target(torch.tensor([1]))
    size, stride = meant
    expected = occlusion(model, x, target, size=size, stride=stride)
    assert torch.equal(occlusion(model, x, target, **given), expected)


class Bright(torch.nn.Module):
    """Class 1 is how bright the pixels of one place are, class 0 their reverse."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, :, 8:16, 24:32].mean((1, 2, 3))
        return torch.stack([-bright, bright], dim=1)


def test_what_the_answer_hangs_on_has_the_sign_of_its_say() -> None:
    x = torch.ones(1, 3, 32, 48)
    for label, sign in ((1, 1), (0, -1)):
        found = sign * occlusion(Bright(), x, Target(torch.tensor([label])), size=8, stride=8)[0]
        assert found[1, 3] == 1 and found.sum() == 1


def test_a_square_larger_than_the_image(build: Build, images: Images) -> None:
    model = build("vit")
    x, target = images(model, 1), Target(torch.tensor([1]))  # 32 down, 48 across
    message = "size=49 is larger than the image, 48 x 32 pixels; try 4"
    with pytest.raises(ConfigError, match=message):
        occlusion(model, x, target, size=49)
    assert occlusion(model, x, target, stride=40).shape == (1, 1, 2)  # the size follows


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (8, 0), (8, 9), (8, -1)])
def test_sizes_that_leave_gaps(size: int, stride: int, build: Build, images: Images) -> None:
    model = build("vit")
    message = f"size={size}, stride={stride}: need 1 <= stride <= size; try 32 and 16"
    with pytest.raises(ConfigError, match=message):
        occlusion(model, images(model, 1), Target(torch.tensor([1])), size=size, stride=stride)
