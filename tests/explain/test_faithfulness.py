"""Curves and the pointing game, from their formulas in NumPy and with SciPy's filters."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.faithfulness import (
    area,
    blurred,
    cell_of,
    deletion,
    insertion,
    pointing,
    widened,
)
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone


@pytest.fixture(scope="module")
def model() -> Backbone:
    torch.manual_seed(0)
    tiny = {"patch_size": 8, "dim": 32, "depth": 2, "num_heads": 2}
    made = vitkit.create_model("vit_tiny_patch16_224", image_size=(32, 48), num_classes=5, **tiny)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)  # else all classes have a fifth each
    return made.double().eval()


def made(count: int = 3, grid: tuple[int, int] = (4, 6)) -> tuple[Tensor, Target, Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 32, 48, generator=random, dtype=torch.float64)
    return x, Target(torch.arange(count) % 5), torch.randn(count, *grid, generator=random)


def shown(order: np.ndarray, k: int, cell: int, size: tuple[int, int]) -> np.ndarray:
    """Which pixels belong to the first k cells of an order of all, row by row."""
    across = -(-size[1] // cell)
    first = np.zeros(size, bool)
    for row, column in (divmod(int(number), across) for number in order[:k]):
        first[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = True
    return first


@pytest.mark.parametrize("steps", [5, 24, 100])
def test_curves_from_the_definition(model: Backbone, steps: int) -> None:
    x, target, maps = made()
    soft = {sigma: _soften(x.numpy(), sigma) for sigma in (3.2, 8.0)}
    falling = deletion(model, x, target, maps, steps=steps, cell=8, baseline=0.5)
    rising = {s: insertion(model, x, target, maps, steps=steps, cell=8, blur=s / 32) for s in soft}
    counts = np.rint(np.linspace(0, 24, min(steps, 24) + 1)).astype(int)
    assert falling.shape == (3, len(counts))
    for i, (image, label) in enumerate(zip(x.numpy(), target.label, strict=True)):
        order = np.argsort(-maps[i].numpy().ravel())
        for step, k in enumerate(counts):
            gone = shown(order, k, 8, (32, 48))
            expected = _share(model, np.where(gone, 0.5, image), label)
            assert falling[i, step].item() == pytest.approx(expected)
            for sigma, images in soft.items():
                expected = _share(model, np.where(gone, image, images[i]), label)
                assert rising[sigma][i, step].item() == pytest.approx(expected)


def _share(model: Backbone, image: np.ndarray, label: Tensor) -> float:
    with torch.no_grad():
        logits = model(torch.from_numpy(image)[None]).numpy()[0]
    return float(np.exp(logits[label]) / np.exp(logits).sum())


def _soften(images: np.ndarray, sigma: float) -> np.ndarray:
    """SciPy's Gaussian, of what lies inside the image."""
    sigmas, weight = (0, 0, sigma, sigma), np.ones_like(images)
    filtered = [
        scipy.ndimage.gaussian_filter(a, sigmas, mode="constant", truncate=20)
        for a in (images, weight)
    ]
    return filtered[0] / filtered[1]


def test_area_is_numpys_trapezoid() -> None:
    curves = np.random.default_rng(0).random((4, 9))
    expected = np.trapezoid(curves, dx=1 / 8, axis=1)
    np.testing.assert_allclose(area(torch.from_numpy(curves)).numpy(), expected)
    assert area(torch.ones(1, 5)).item() == 1


class Window(nn.Module):
    """Says class 0 while one square of the image is at least half as bright as at first."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, 8:16, 16:24].mean(dim=(1, 2)) > 0.5
        return torch.stack([bright * 20.0, ~bright * 20.0], dim=1)


def test_a_true_map_falls_at_once_and_rises_at_once() -> None:
    x, target = torch.zeros(1, 3, 32, 32), Target(torch.zeros(1, dtype=torch.long))
    x[..., 8:16, 16:24] = 1
    true = torch.zeros(1, 4, 4)
    true[0, 1, 2] = 1
    for maps, first in ((true, 1), (-true, 16)):
        falling = deletion(Window(), x, target, maps, steps=16, cell=8)[0]
        rising = insertion(Window(), x, target, maps, steps=16, cell=8, blur=0.5)[0]
        expected = torch.arange(17) < first
        torch.testing.assert_close(falling.round(), expected.float())
        torch.testing.assert_close(rising.round(), 1 - expected.float())


@pytest.mark.parametrize("grid", [(2, 3), (32, 48), (5, 7)])
def test_maps_of_any_grid_are_ranked_by_the_mean_over_a_cell(
    model: Backbone, grid: tuple[int, int]
) -> None:
    """Cells of 10 pixels, the last ones smaller, against a grid that was made for them."""
    x, target, maps = made(grid=grid)
    at = [
        ((np.arange(n) + 0.5) * cells / n).astype(int)
        for n, cells in zip((32, 48), grid, strict=True)
    ]
    pixels = maps.numpy()[:, at[0]][:, :, at[1]]  # every pixel with the value of the cell it is in
    corners = [(top, left) for top in range(0, 32, 10) for left in range(0, 48, 10)]
    means = [pixels[:, top : top + 10, left : left + 10].mean(axis=(1, 2)) for top, left in corners]
    cells = np.stack(means, axis=1)  # (B, 20)
    falling = deletion(model, x, target, maps, steps=20, cell=10)
    for i in range(len(x)):
        order = np.argsort(-cells[i])
        values = cells[i][order]
        clear = [k for k in range(21) if k in (0, 20) or values[k - 1] - values[k] > 1e-5]
        assert len(clear) > 4
        for k in clear:
            gone = shown(order, k, 10, (32, 48))
            expected = _share(model, np.where(gone, 0.0, x[i].numpy()), target.label[i])
            assert falling[i, k].item() == pytest.approx(expected)


def test_equal_cells_are_drawn_by_the_image(model: Backbone) -> None:
    """The same in every run and batch, another order for another image, and not row by row."""
    x, target, maps = made()
    even = torch.zeros_like(maps)
    curves = deletion(model, x, target, even, steps=24, cell=8)
    torch.testing.assert_close(deletion(model, x, target, even, steps=24, cell=8), curves)
    alone = deletion(model, x[1:2], Target(target.label[1:2]), even[1:2], steps=24, cell=8)
    torch.testing.assert_close(alone[0], curves[1])
    rows = torch.arange(24.0).view(1, 4, 6).expand(3, -1, -1)
    for ordered in (rows, -rows):
        assert not torch.allclose(deletion(model, x, target, ordered, steps=24, cell=8), curves)


def test_order_of_equal_cells_is_fair() -> None:
    """Over many images the mean step at which the one cell that counts goes is the middle."""
    random = torch.Generator().manual_seed(0)
    x = torch.rand(300, 3, 32, 32, generator=random) * 0.01
    x[..., 8:16, 16:24] = 1
    target = Target(torch.zeros(300, dtype=torch.long))
    curves = deletion(Window(), x, target, torch.zeros(300, 4, 4), steps=16, cell=8)
    assert area(curves).mean().item() == pytest.approx(0.5, abs=0.05)  # three deviations


def test_pointing_game() -> None:
    masks = torch.zeros(3, 8, 12, dtype=torch.bool)
    masks[:, 2:4, 4:8] = True
    maps = torch.zeros(3, 4, 6)
    maps[0, 1, 2] = 1.0  # its middle is (3, 5): inside
    maps[1, 1, 4] = 1.0  # (3, 9)
    maps[2, 1, 2] = maps[2, 3, 5] = 1.0  # one of two
    assert pointing(maps, masks).tolist() == [1.0, 0.0, 0.5]
    assert pointing(maps, masks, tolerance=1).tolist() == [
        1.0,
        0.5,
        0.5,
    ]  # on the edge of two pixels
    assert pointing(maps, masks, tolerance=2).tolist() == [1.0, 1.0, 0.5]


def test_pointing_with_pixels_is_the_highest_pixel() -> None:
    random = np.random.default_rng(0)
    maps, masks = random.random((50, 9, 7)), random.random((50, 9, 7)) < 0.3
    expected = [mask.ravel()[np.argmax(grid)] for grid, mask in zip(maps, masks, strict=True)]
    assert pointing(torch.from_numpy(maps), torch.from_numpy(masks)).tolist() == expected


def test_maps_that_say_nothing_get_chance() -> None:
    """Even maps exactly, random ones on average: nothing favours the middle or the border."""
    masks = torch.zeros(4000, 24, 24, dtype=torch.bool)
    masks[:2000, 8:16, 8:16] = masks[2000:, :2] = True
    share = masks.float().mean(dim=(1, 2))
    torch.testing.assert_close(pointing(torch.zeros(4000, 6, 6), masks), share)
    hits = pointing(torch.rand(4000, 6, 6, generator=torch.Generator().manual_seed(0)), masks)
    for part in (slice(2000), slice(2000, None)):
        assert hits[part].mean().item() == pytest.approx(share[part].mean().item(), abs=0.025)


@pytest.mark.parametrize("pixels", [0, 1, 3, 6])
def test_tolerance_is_a_distance(pixels: int) -> None:
    masks = np.random.default_rng(0).random((3, 20, 30)) < 0.02
    expected = [scipy.ndimage.distance_transform_edt(~mask) <= pixels for mask in masks]
    np.testing.assert_array_equal(widened(torch.from_numpy(masks), pixels).numpy(), expected)


def test_blur_keeps_what_is_even() -> None:
    even = torch.full((1, 3, 16, 24), 0.3, dtype=torch.float64)
    torch.testing.assert_close(blurred(even, 0.2), even)


@pytest.mark.parametrize(
    ("name", "size", "pixels"),
    [
        ("vit_tiny_patch16_224", (224, 224), 16),
        ("vit_small_patch32_224", (224, 224), 32),
        ("vit_tiny_patch16_224", (64, 96), 9),  # a seventh of the side
        ("swin_tiny_patch4_window7_224", (224, 224), 32),
        ("cct_7_3x1_32", (32, 32), 2),
        ("resnet18", (224, 224), 32),
    ],
)
def test_what_is_removed_at_once(name: str, size: tuple[int, int], pixels: int) -> None:
    with torch.device("meta"):
        assert cell_of(vitkit.create_model(name), torch.empty(1, 3, *size)) == pixels


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "steps=0 is less than 1"),
        ({"cell": 0}, "cell=0 is less than 1 pixel"),
        ({"blur": 0.0}, r"blur=0.0 is not in \(0, 1\]"),
    ],
)
def test_refuses(model: Backbone, options: dict[str, float], complaint: str) -> None:
    x, target, maps = made()
    with pytest.raises(ConfigError, match=complaint):
        insertion(model, x, target, maps, **options)


def test_refuses_a_negative_tolerance() -> None:
    with pytest.raises(ConfigError, match="tolerance=-1 is below 0 pixels"):
        pointing(torch.zeros(1, 2, 2), torch.zeros(1, 4, 4, dtype=torch.bool), tolerance=-1)
