"""Patches against PyTorch's unfold, components against scikit-learn's."""

import io
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.patches import (
    Components,
    cut,
    principal_components,
    projection_gap,
)
from vitkit.explain.picture import png, tile
from vitkit.models.backbone import Backbone


def tiny(name: str = "vit_tiny_patch16_224", **settings: Any) -> Backbone:
    """A model with patches of 8 pixels and random filters."""
    torch.manual_seed(0)
    given: dict[str, Any] = {"dim": 32, "num_heads": 2, "depth": 1, "patch_size": 8}
    if name.startswith("swin"):
        given |= {"depths": (1, 1), "num_heads": (2, 2), "window_size": 4, "patch_size": 4}
        del given["depth"]
    return vitkit.create_model(name, image_size=(32, 48), num_classes=5, **(given | settings))


@pytest.mark.parametrize("patch_size", [1, 4, 7])
@pytest.mark.parametrize("size", [(12, 20), (7, 8), (3, 1), (14, 28)])
@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_those_of_unfold(channels: int, size: tuple[int, int], patch_size: int) -> None:
    image = torch.randn(channels, *size)
    down, right = (-side % patch_size for side in size)
    padded = F.pad(image, (0, right, 0, down))
    expected = F.unfold(padded[None], patch_size, stride=patch_size)[0].T  # (h * w, C p p)
    found = cut(image.numpy(), patch_size)
    assert found.grid == (-(-size[0] // patch_size), -(-size[1] // patch_size))
    assert found.values.shape == (len(expected), channels, patch_size, patch_size)
    np.testing.assert_array_equal(found.values.reshape(len(expected), -1), expected.numpy())


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("size", [(8, 12), (7, 13), (3, 2)])
def test_joined_patches_are_the_image(size: tuple[int, int], dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, *size)).astype(dtype)
    joined = cut(image, 4).join()
    assert joined.dtype == dtype
    np.testing.assert_array_equal(joined, image)


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_has_white_between_patches(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 200, (channels, 6, 9), np.uint8)
    pixels = cut(image, 3).picture(gap=2)
    assert pixels.shape == (3 + 2 + 3, 3 + 2 + 3 + 2 + 3, 3) and pixels.dtype == np.uint8
    assert (pixels[3:5] == 255).all() and (pixels[:, [3, 4, 8, 9]] == 255).all()
    for row in range(6):
        for column in range(9):
            pixel = pixels[row + row // 3 * 2, column + column // 3 * 2]
            np.testing.assert_array_equal(pixel, np.broadcast_to(image[:, row, column], 3))


def test_what_is_no_picture_or_image() -> None:
    with pytest.raises(ConfigError, match="patches of 3 channels of float32 are no picture"):
        cut(np.zeros((3, 4, 4), np.float32), 2).picture()
    with pytest.raises(ConfigError, match="patches of 4 channels of uint8 are no picture"):
        cut(np.zeros((4, 4, 4), np.uint8), 2).picture()
    with pytest.raises(ConfigError, match=r"an image of shape \(4, 4\) is not \(C, H, W\)"):
        cut(np.zeros((4, 4)), 2)
    with pytest.raises(ConfigError, match="patch_size=0 is less than 1; try 16"):
        cut(np.zeros((3, 4, 4)), 0)


def test_tiles_lie_in_rows() -> None:
    tiles = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    expected = [
        [0, 1, -1, 4, 5, -1, 8, 9],
        [2, 3, -1, 6, 7, -1, 10, 11],
        [-1] * 8,
        [12, 13, -1, 16, 17, -1, 20, 21],
        [14, 15, -1, 18, 19, -1, 22, 23],
    ]
    assert tile(tiles, gap=1, fill=-1).tolist() == expected


@pytest.mark.parametrize("size", [(32, 48), (30, 50), (8, 5)])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"in_channels": 1}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("swin_tiny_patch4_window7_224", {}),
        ("swinv2_tiny_window8_256", {"pretrained_window_sizes": (0, 0)}),
    ],
    ids=str,
)
def test_the_embedding_sees_the_patches(
    name: str, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    model = tiny(name, **settings)
    x = torch.randn(settings.get("in_channels", 3), *size)
    assert 0 <= projection_gap(model, x) < 1e-5
    assert projection_gap(model.double(), x) < 1e-12


def shifted(_: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """The image moved by one pixel, as a patch embedding that cuts elsewhere would see it."""
    return (inputs[0].roll(1, -1),)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_the_gap_shows_an_embedding_that_sees_something_else(name: str) -> None:
    model, x = tiny(name), torch.randn(3, 32, 48)
    model.get_submodule("patch_embed").register_forward_pre_hook(shifted)
    assert projection_gap(model, x) > 0.1


def test_gap_of_what_is_no_image() -> None:
    for shape in ((1, 3, 32, 48), (1, 32, 48)):
        with pytest.raises(ConfigError, match="is not one image of 3 channels; give"):
            projection_gap(tiny(), torch.randn(shape))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_components_are_those_of_scikit_learn(name: str) -> None:
    model = tiny(name)
    weight = model.get_submodule("patch_embed").proj.weight.detach().double()
    reference = PCA(28, svd_solver="full").fit(weight.flatten(1).numpy())
    found = principal_components(model)
    assert found.filters.shape == (28, *weight.shape[1:])
    np.testing.assert_allclose(found.shares, reference.explained_variance_ratio_, rtol=1e-6)
    same = (found.filters.reshape(28, -1) * reference.components_).sum(axis=1)
    np.testing.assert_allclose(np.abs(same), 1, rtol=1e-6)
    flat = found.filters.reshape(28, -1)
    assert (flat.max(axis=1) == np.abs(flat).max(axis=1)).all()


def test_components_find_the_patterns_that_filters_are_made_of() -> None:
    model = tiny()
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    waves = [(row * torch.pi / 4).sin(), (column * torch.pi / 4).sin()]
    colours = torch.eye(3)[:2]
    patterns = [c[:, None, None] * wave / 32**0.5 for c, wave in zip(colours, waves, strict=True)]
    amounts = torch.randn(2, 32)
    amounts -= amounts.mean(dim=1, keepdim=True)
    amounts[1] -= amounts[0] * (amounts[0] @ amounts[1]) / amounts[0].square().sum()
    amounts *= torch.tensor([[3.0], [1.0]]) / amounts.norm(dim=1, keepdim=True)
    with torch.no_grad():
        weight = sum(a[:, None, None, None] * p for a, p in zip(amounts, patterns, strict=True))
        model.get_submodule("patch_embed").proj.weight.copy_(weight + 5)
    found = principal_components(model, 3)
    np.testing.assert_allclose(found.shares, [0.9, 0.1, 0], atol=1e-5)
    for component, pattern in zip(found.filters, patterns, strict=False):
        assert abs((component * pattern.numpy()).sum()) == pytest.approx(1, abs=1e-4)
    red = found.images[0]
    assert (red[..., 1:] == 128).all() and red[..., 0].max() == 255 and red[..., 0].min() == 1


@pytest.mark.parametrize(
    ("settings", "count"),
    [({"dim": 8}, 7), ({"patch_size": 2, "in_channels": 1}, 4), ({}, 28)],
    ids=str,
)
def test_there_are_no_more_components_than_filters_or_pixels(
    settings: dict[str, Any], count: int
) -> None:
    found = principal_components(tiny(**settings))
    assert len(found.filters) == len(found.shares) == count
    assert 0 < found.shares.sum() < 1 + 1e-9 and (np.diff(found.shares) <= 0).all()


def test_filters_that_are_all_the_same_have_no_variance() -> None:
    model = tiny()
    with torch.no_grad():
        model.get_submodule("patch_embed").proj.weight.fill_(0.5)
    assert not principal_components(model, 2).shares.any()


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_components(channels: int) -> None:
    filters = np.zeros((2, channels, 2, 2))
    filters[0, 0, 0, 0], filters[0, -1, 1, 1], filters[1, :, 0, 1] = 1, -0.5, 0.1
    images = Components(filters, np.array([0.75, 0.25])).images
    assert images.shape == (2, 2, 2, 3)
    expected = [[255, 128], [128, 64]] if channels == 1 else [[255, 128], [128, 128]]
    assert images[0, :, :, 0].tolist() == expected
    assert images[0, 1, 1, 2] == 64 and images[1, 0, 1].tolist() == [255] * 3


def test_filters_of_other_channels_are_no_pictures() -> None:
    found = principal_components(tiny(in_channels=4))
    with pytest.raises(ConfigError, match="filters of 4 channels are no colours; take `filters`"):
        _ = found.images
    with pytest.raises(ConfigError, match="count=0 is less than 1; try 28"):
        principal_components(tiny(), 0)


def test_png_of_components_shows_each_in_its_colours() -> None:
    filters = np.zeros((8, 3, 1, 1))
    for i in range(8):
        filters[i, :, 0, 0] = 0.1 * i, 1, -0.1 * i
    found = Components(filters, np.full(8, 0.125))
    sheet = np.asarray(Image.open(io.BytesIO(found.png(columns=3))).convert("RGB"))
    for image in found.images:
        assert (sheet == image[0, 0]).all(axis=-1).sum() == 96**2


def test_png_holds_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(Image.open(io.BytesIO(png(pixels))), pixels)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vitc_compact_32", {}, "ViT has a stem of 3x3 convolutions before its patches"),
        ("vit_tiny_r_s16_p8_224", {"depth": 1}, "Hybrid cuts its patches from the map of a ResNet"),
        ("cct_2_3x2_32", {}, "CCT makes tokens by convolutions that overlap"),
        ("convnet_3_32", {}, "ConvNet has no patches: it starts with a convolution"),
        ("resnet18", {}, "ResNet has no patches"),
    ],
)
def test_models_that_project_no_pixels(name: str, settings: dict[str, Any], message: str) -> None:
    model = vitkit.create_model(name, num_classes=2, **settings)
    for call in (principal_components, lambda model: projection_gap(model, torch.zeros(3, 8, 8))):
        with pytest.raises(ConfigError, match=f"{message}.*; choose a ViT, DeiT or Swin"):
            call(model)
