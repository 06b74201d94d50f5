"""Random erasing against timm's, by the boxes it leaves and the noise in them."""

import random
from collections.abc import Callable

import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from vitkit.data.augment.erase import erase, random_erase


def extents(batch: Tensor) -> Tensor:
    """Top, left, height and width of what is not zero in each image that has such: (n, 4)."""
    found = []
    for image in batch:
        rows, columns = (image != 0).any(0).nonzero(as_tuple=True)
        if len(rows):
            top, left = rows.min(), columns.min()
            found.append([top, left, rows.max() - top + 1, columns.max() - left + 1])
            assert len(rows) == found[-1][2] * found[-1][3]  # the box is full
    return torch.tensor(found)


@pytest.mark.parametrize("frame", [(20, 20), (12, 31), (40, 5)])
def test_boxes_of_timm(frame: tuple[int, int], same_distribution: Callable[..., bool]) -> None:
    torch.manual_seed(0)
    random.seed(0)
    blank = torch.zeros(1200, 2, *frame)
    theirs = extents(RandomErasing(probability=1.0, mode="pixel", device="cpu")(blank.clone()))
    ours = extents(random_erase(blank, 1.0))
    assert abs(len(ours) - len(theirs)) < 60  # those that found no place
    ours, theirs = ours.double(), theirs.double()
    for values, expected in zip(ours.T, theirs.T, strict=True):
        assert same_distribution(values, expected)
    assert same_distribution(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])
    assert same_distribution(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3])


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.9])
def test_share_of_images(probability: float) -> None:
    torch.manual_seed(0)
    batch = torch.zeros(4000, 1, 16, 16)
    erased = (random_erase(batch, probability) != 0).flatten(1).any(1).double().mean().item()
    sigma = (probability * (1 - probability) / 4000) ** 0.5
    assert abs(erased - probability) <= 5 * sigma


def test_noise_is_normal_and_each_pixels_own(same_distribution: Callable[..., bool]) -> None:
    torch.manual_seed(0)
    batch = torch.full((64, 3, 12, 12), 100.0)
    boxes = torch.tensor([[2, 3, 8, 7]]).repeat(64, 1)
    given = erase(batch, boxes, torch.ones(64, dtype=torch.bool))
    noise = given[:, :, 2:10, 3:10]
    assert same_distribution(noise, torch.randn(noise.shape))
    flat = noise.permute(1, 2, 3, 0).flatten(0, 2).double()  # (pixels and channels, images)
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlation.abs().max() < 6 / 64**0.5  # 6 sigma of independent ones


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rest_stays(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    batch = torch.rand(4, 3, 9, 9).to(dtype)
    before = batch.clone()
    boxes = torch.tensor([[0, 0, 4, 5], [5, 5, 4, 4], [1, 1, 3, 3], [0, 0, 8, 8]])
    which = torch.tensor([True, True, False, True])
    given = erase(batch, boxes, which)
    assert given.dtype == dtype and torch.equal(batch, before)
    changed = (given != batch).all(1)
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        expected = torch.zeros(9, 9, dtype=torch.bool)
        if which[row]:
            expected[top : top + height, left : left + width] = True
        assert torch.equal(changed[row], expected)


def test_one_pixel_has_no_room() -> None:
    batch = torch.ones(8, 3, 1, 1)
    assert torch.equal(random_erase(batch, 1.0), batch)
