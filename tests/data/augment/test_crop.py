"""Parts cut out of the images of a batch: pixels against Pillow."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitkit.data.augment.crop import resized_crop
from vitkit.data.crop import RandomCrop


def some_boxes(count: int, height: int, width: int) -> Tensor:
    crop = RandomCrop((0.02, 1.0), (0.3, 3.0))
    views = [crop.view(height, width, least=(1, 1), key=(0, 0, i)) for i in range(count)]
    return torch.tensor([(view.top, view.left, view.height, view.width) for view in views])


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((64, 3, 24, 24), (24, 24)),
        ((64, 1, 24, 24), (24, 24)),
        ((64, 3, 40, 15), (40, 15)),
        ((64, 3, 36, 36), (24, 24)),  # larger ones shrink
        ((64, 3, 70, 30), (20, 28)),
        ((64, 3, 10, 12), (24, 16)),
        ((8, 3, 1, 3), (1, 3)),
    ],
)
def test_pillow(
    shape: tuple[int, ...],
    size: tuple[int, int],
    photos: Callable[..., Tensor],
    each: Callable[..., Tensor],
) -> None:
    images = photos(*shape)
    before, boxes = images.clone(), some_boxes(len(images), *shape[-2:])

    def cropped(picture: Image.Image, box: list[int]) -> Image.Image:
        top, left, height, width = box
        part = picture.crop((left, top, left + width, top + height))
        across = part.resize((size[1], height), Image.Resampling.BICUBIC)
        return across.resize(size[::-1], Image.Resampling.BICUBIC)  # else Pillow chooses an order

    given = resized_crop(images, boxes, size)
    gap = (given.int() - each(images, cropped, boxes).int()).abs()
    assert given.dtype == torch.uint8 and given.is_contiguous() and torch.equal(images, before)
    assert gap.max() <= 2 and (gap > 1).float().mean() < 1e-4 and (gap > 0).float().mean() < 1e-3


def test_the_whole_is_left_alone(photos: Callable[..., Tensor]) -> None:
    images = photos(3, 3, 10, 17)
    boxes = torch.tensor([[0, 0, 10, 17]]).repeat(3, 1)
    assert torch.equal(resized_crop(images, boxes, (10, 17)), images)


@pytest.mark.parametrize(("start", "length"), [(3.25, 20.5), (0.0, 31.75), (7.6, 8.9)])
def test_boxes_between_pixels(start: float, length: float) -> None:
    """Of a ramp a part of the same slope is seen, wherever it begins."""
    ramp = torch.arange(40, dtype=torch.uint8).mul(6).expand(1, 1, 40, 40)
    box = torch.tensor([[start, 5.5, length, 20.25]])
    seen = resized_crop(ramp.mT, box, (16, 12))[0, 0].numpy()
    inner = start + (np.arange(16) + 0.5) * length / 16 - 0.5
    np.testing.assert_allclose(seen[2:-2, 3], 6 * inner[2:-2], atol=0.51)
