"""Random boxes: where they may lie, and which pixels they hold."""

from collections.abc import Callable
from math import log

import numpy as np
import torch

from vitkit.data.augment.box import inside, random_boxes

CPU = torch.device("cpu")


def test_boxes_lie_inside() -> None:
    torch.manual_seed(0)
    boxes, fits = random_boxes(
        3000, (9, 14), area=(0.01, 1.0), ratio=(0.2, 5.0), largest=(7, 14), device=CPU
    )
    top, left, height, width = boxes[fits].unbind(1)
    assert boxes.dtype == torch.int64 and fits.float().mean() > 0.9
    for start, length, side, largest in ((top, height, 9, 7), (left, width, 14, 14)):
        assert start.min() == 0 and (start + length).max() == side
        assert length.min() >= 1 and length.max() == largest


def test_area_and_ratio(uniform: Callable[..., bool]) -> None:
    """In a frame so large that all fit and rounding does not show."""
    torch.manual_seed(0)
    boxes, fits = random_boxes(
        8000, (9000, 4000), area=(0.02, 0.2), ratio=(0.5, 3.0), largest=(9000, 4000), device=CPU
    )
    _, _, height, width = boxes.double().unbind(1)
    assert fits.all()
    areas = np.histogram((height * width / 36e6).numpy(), 30, (0.02, 0.2))[0]
    ratios = np.histogram((width / height).log().numpy(), 30, (log(0.5), log(3)))[0]
    assert uniform(areas) and uniform(ratios)
    assert areas.sum() > 7980 and ratios.sum() > 7980  # the ends are rounded to either side


def test_every_place_is_as_likely(uniform: Callable[..., bool]) -> None:
    torch.manual_seed(0)
    boxes, _ = random_boxes(
        20_000, (8, 8), area=(9 / 64, 9 / 64), ratio=(1.0, 1.0), largest=(8, 8), device=CPU
    )
    assert torch.equal(boxes[:, 2:].unique(), torch.tensor([3]))
    assert uniform(np.bincount(boxes[:, 0] * 6 + boxes[:, 1], minlength=36))


def test_the_first_that_fits_counts() -> None:
    """Boxes of three quarters of a frame 4 times as wide as high: the wide ones among them fit."""
    torch.manual_seed(0)
    arguments = {"area": (0.75, 0.75), "ratio": (0.5, 8.0), "device": CPU}
    boxes, fits = random_boxes(4000, (40, 160), largest=(40, 160), **arguments)
    share = log((4 / 0.75) / (4 * 0.75)) / log(16)  # ratios for which neither side is too long
    expected = 1 - (1 - share) ** 10
    assert abs(fits.float().mean() - expected) < 5 * (expected * (1 - expected) / 4000) ** 0.5
    assert (boxes[fits, 2] <= 40).all() and (boxes[fits, 3] <= 160).all()


def test_none_may_fit() -> None:
    _, fits = random_boxes(
        5, (10, 10), area=(0.5, 1.0), ratio=(1.0, 1.0), largest=(3, 3), device=CPU
    )
    assert not fits.any()


def test_inside() -> None:
    boxes = torch.tensor([[0, 0, 0, 5], [1, 2, 3, 1], [0, 0, 6, 7], [5, 6, 1, 1]])
    given = inside(boxes, (6, 7))
    assert given.shape == (4, 1, 6, 7) and given.dtype == torch.bool
    for (top, left, height, width), mask in zip(boxes.tolist(), given[:, 0], strict=True):
        expected = torch.zeros(6, 7, dtype=torch.bool)
        expected[top : top + height, left : left + width] = True
        assert torch.equal(mask, expected)
