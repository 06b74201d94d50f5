"""Batched augmentation against NumPy, one image at a time, and the distribution of its draws."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.augment import mirror, random_mirror, random_shift, shift


def batch(count: int, height: int, width: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Images whose every pixel differs from its neighbours."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator).to(dtype)


def padded_crop(image: NDArray[np.uint8], down: int, right: int) -> NDArray[np.uint8]:
    """Pad by reflection as much as the shift needs, and crop: (C, H, W) -> (C, H, W)."""
    height, width = image.shape[1:]
    pads = (0, 0), (abs(down), abs(down)), (abs(right), abs(right))
    padded = np.pad(image, pads, mode="reflect")
    top, left = abs(down) - down, abs(right) - right
    return padded[:, top : top + height, left : left + width]


def places(count: int, height: int, width: int) -> Tensor:
    """Images that say where each pixel comes from: row in channel 0, column in channel 1."""
    grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack(grid).expand(count, -1, -1, -1)


def offsets(moved: Tensor) -> NDArray[np.int64]:
    """The shift of each image made by `places`, (B, 2): the middle is never reflected."""
    height, width = moved.shape[-2:]
    middle = np.array([height // 2, width // 2])
    return middle - moved[:, :, height // 2, width // 2].numpy()


@pytest.mark.parametrize("size", [(6, 9), (9, 6), (1, 5), (2, 2)])
def test_shift(size: tuple[int, int]) -> None:
    """Every shift there is, in one batch, each image with its own."""
    height, width = size
    downs, rights = torch.meshgrid(
        torch.arange(1 - height, height), torch.arange(1 - width, width), indexing="ij"
    )
    down, right = downs.flatten(), rights.flatten()
    images = batch(len(down), height, width)
    given = shift(images, down, right)
    for i, image in enumerate(images.numpy()):
        expected = padded_crop(image, int(down[i]), int(right[i]))
        np.testing.assert_array_equal(given[i].numpy(), expected, f"{down[i]}, {right[i]}")


def test_mirror() -> None:
    images = batch(4, 5, 6)
    given = mirror(images, torch.tensor([True, False, False, True]))
    expected = [
        image[..., ::-1] if i in (0, 3) else image for i, image in enumerate(images.numpy())
    ]
    np.testing.assert_array_equal(given.numpy(), np.stack(expected))


def test_half_are_mirrored() -> None:
    torch.manual_seed(0)
    images = batch(4000, 1, 2)
    images[:, :, :, 1] = images[:, :, :, 0] + 1  # no image is its own mirror
    flipped = (random_mirror(images) == images.flip(-1)).flatten(1).all(1)
    kept = (random_mirror(images) == images).flatten(1).all(1)
    for happened in (flipped, kept):
        assert abs(happened.double().mean().item() - 0.5) < 5 * 0.5 / 4000**0.5  # 5 sigma
    assert 0 < (flipped & kept).sum() < 4000  # two calls draw anew


def test_shifts_are_uniform_and_independent() -> None:
    torch.manual_seed(0)
    count, most = 20_000, (2, 3)
    seen = offsets(random_shift(places(count, 20, 31), 0.1))
    cells = np.zeros((5, 7))
    np.add.at(cells, (seen[:, 0] + most[0], seen[:, 1] + most[1]), 1)
    expected = count / cells.size
    chi_square = ((cells - expected) ** 2 / expected).sum()
    assert cells.sum() == count
    assert chi_square < 34 + 5 * 68**0.5  # 34 degrees of freedom, 5 sigma


@pytest.mark.parametrize(
    ("size", "share", "most"),
    [
        ((8, 8), 0.0, (0, 0)),
        ((8, 24), 0.125, (1, 3)),
        ((5, 9), 1.0, (4, 8)),
        ((5, 9), 7.0, (4, 8)),
        ((1, 4), 0.9, (0, 3)),
    ],
)
def test_range_of_shifts(size: tuple[int, int], share: float, most: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = batch(2000, *size)
    moved = random_shift(images, share)
    for side in (0, 1):
        allowed = range(-most[side], most[side] + 1)
        torch.manual_seed(0)
        own = random_shift(places(2000, *size), share)
        middle = own[:, side, size[0] // 2, size[1] // 2]
        reached = {reflect(size[side] // 2 - step, size[side]) for step in allowed}
        assert set(middle.tolist()) == reached
    if share == 0:
        assert torch.equal(moved, images)


def reflect(position: int, side: int) -> int:
    """Where a position outside [0, side) is read from."""
    return int(np.pad(np.arange(side), side - 1, mode="reflect")[position + side - 1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_shape_and_type_are_kept(dtype: torch.dtype) -> None:
    images = batch(7, 6, 10, dtype)
    before = images.clone()
    for moved in (random_mirror(images), random_shift(images, 0.3)):
        assert moved.shape == images.shape and moved.dtype == dtype
        assert moved.device == images.device
    assert torch.equal(images, before)


def test_the_seed_decides() -> None:
    images = batch(64, 16, 16)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(random_shift(random_mirror(images), 0.2))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_empty_batch() -> None:
    assert random_shift(random_mirror(batch(0, 4, 4)), 0.5).shape == (0, 3, 4, 4)
