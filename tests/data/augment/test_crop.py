"""Random-resized crops: pixels against Pillow, boxes against torchvision's draws."""

from collections.abc import Callable

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import RandomResizedCrop

from vitkit.data.augment.crop import random_crops, random_resized_crop, resized_crop

CPU = torch.device("cpu")
RATIO = (3 / 4, 4 / 3)


def cropped(picture: Image.Image, box: list[int]) -> Image.Image:
    """Pillow's crop, resized to the picture's own size."""
    top, left, height, width = box
    part = picture.crop((left, top, left + width, top + height))
    return part.resize(picture.size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("shape", [(64, 3, 24, 24), (64, 1, 24, 24), (64, 3, 40, 15), (8, 3, 1, 3)])
def test_pillow(
    shape: tuple[int, ...], photos: Callable[..., Tensor], each: Callable[..., Tensor]
) -> None:
    torch.manual_seed(0)
    images = photos(*shape)
    before = images.clone()
    boxes = random_crops(len(images), shape[-2:], (0.02, 1.0), (0.3, 3.0), CPU)
    given = resized_crop(images, boxes)
    gap = (given.int() - each(images, cropped, boxes).int()).abs()
    assert given.dtype == torch.uint8 and given.is_contiguous() and torch.equal(images, before)
    assert gap.max() <= 2 and (gap > 1).float().mean() < 1e-4 and (gap > 0).float().mean() < 1e-3


def test_the_whole_is_left_alone(photos: Callable[..., Tensor]) -> None:
    images = photos(3, 3, 10, 17)
    assert torch.equal(resized_crop(images, torch.tensor([[0, 0, 10, 17]]).repeat(3, 1)), images)


@pytest.mark.parametrize(
    ("frame", "scale", "ratio"),
    [
        ((32, 32), (0.08, 1.0), RATIO),
        ((32, 32), (0.8, 1.0), RATIO),
        ((30, 32), (0.97, 1.0), RATIO),
        ((60, 20), (0.3, 1.0), RATIO),  # few of ten fit
        ((20, 60), (0.3, 0.9), (0.5, 0.8)),
        ((3, 90), (0.5, 1.0), RATIO),  # none fits
        ((90, 3), (0.5, 1.0), RATIO),
    ],
)
def test_boxes_of_torchvision(
    frame: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    same_distribution: Callable[..., bool],
) -> None:
    torch.manual_seed(0)
    count = 2500
    theirs = RandomResizedCrop(frame, scale=scale, ratio=ratio)
    drawn = [theirs.make_params([torch.empty(3, *frame)]) for _ in range(count)]
    ours = random_crops(count, frame, scale, ratio, CPU).T.double()
    for values, key in zip(ours, ("top", "left", "height", "width"), strict=True):
        assert same_distribution(values, [parameters[key] for parameters in drawn]), key
    for quantity in (lambda h, w: h * w, lambda h, w: w / h):
        expected = [quantity(parameters["height"], parameters["width"]) for parameters in drawn]
        assert same_distribution(quantity(ours[2], ours[3]), expected)


def test_random_crop_is_drawn_then_cut(photos: Callable[..., Tensor]) -> None:
    images = photos(16, 3, 18, 12)
    torch.manual_seed(3)
    boxes = random_crops(16, (18, 12), (0.08, 1.0), RATIO, CPU)
    assert len(boxes.unique(dim=0)) > 12
    torch.manual_seed(3)
    assert torch.equal(random_resized_crop(images, (0.08, 1.0), RATIO), resized_crop(images, boxes))
