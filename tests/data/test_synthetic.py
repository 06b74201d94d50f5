import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from vitkit.data.synthetic import CLASSES, MIN_SIZE, Shape, draw
from vitkit.errors import ConfigError

LUMA = np.array([0.299, 0.587, 0.114])


def labels(shapes: list[Shape]) -> NDArray[np.int64]:
    return np.array([shape.label for shape in shapes])


@pytest.fixture(scope="module")
def shapes() -> list[Shape]:
    return [draw(index, seed=0, size=32) for index in range(960)]


@pytest.mark.parametrize("size", [MIN_SIZE, 17, 64, 224])
def test_any_size(size: int) -> None:
    for index in range(16):
        shape = draw(index, seed=5, size=size)
        assert shape.image.shape == (size, size, 3)
        assert shape.image.dtype == np.uint8
        assert shape.mask.shape == (size, size)
        left, top, right, bottom = shape.box
        assert 0 <= left < right <= size and 0 <= top < bottom <= size
        outside = shape.mask.copy()
        outside[top:bottom, left:right] = False
        assert not outside.any()
        inside = shape.mask[top:bottom, left:right]  # tight: the object touches each side
        assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_depends_on_its_arguments_alone() -> None:
    wanted = [(index, seed) for index in range(24) for seed in (0, 1)]
    first = {key: draw(key[0], seed=key[1], size=40).image for key in wanted}
    with ThreadPoolExecutor(4) as pool:
        again = pool.map(lambda key: (key, draw(key[0], seed=key[1], size=40).image), wanted[::-1])
        assert all(np.array_equal(first[key], image) for key, image in again)
    assert len({image.tobytes() for image in first.values()}) == len(wanted)


def test_same_in_another_process() -> None:
    code = (
        "import sys, zlib; from vitkit.data.synthetic import draw;"
        "print(zlib.crc32(draw(7, seed=3, size=48).image.tobytes()), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(zlib.crc32(draw(7, seed=3, size=48).image)), "False"]


def test_classes_are_balanced(shapes: list[Shape]) -> None:
    assert len(CLASSES) >= 6
    assert np.bincount(labels(shapes)).tolist() == [len(shapes) // len(CLASSES)] * len(CLASSES)


def test_object_stands_out_where_the_mask_says() -> None:
    """Split halfway between the object's luma and the ground's: the split agrees with the mask."""
    for index in range(80):
        shape = draw(index, seed=2, size=64)
        luma = shape.image @ LUMA
        inside, outside = luma[shape.mask], luma[~shape.mask]
        gap = np.median(inside) - np.median(outside)
        assert abs(gap) > 70
        split = (luma - (np.median(inside) + np.median(outside)) / 2) * np.sign(gap) > 0
        left, top, right, bottom = shape.box
        window = np.zeros_like(split)
        window[top:bottom, left:right] = True
        overlap = (split & shape.mask).sum() / ((split & window) | shape.mask).sum()
        assert overlap > 0.9
    # A mask that is off by a few pixels fails:
    moved = np.roll(shape.mask, 6, axis=1)
    assert (split & moved).sum() / (split | moved).sum() < 0.9


def linear_probe(features: NDArray[np.float64], target: NDArray[np.int64]) -> float:
    """Accuracy on the second half of ridge regression fitted to the first."""
    half = len(features) // 2
    x = (features - features[:half].mean(axis=0)) / (features[:half].std(axis=0) + 1e-9)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    wanted = np.eye(len(CLASSES))[target[:half]]
    weights = np.linalg.solve(x[:half].T @ x[:half] + 10 * np.eye(x.shape[1]), x[:half].T @ wanted)
    return float(((x[half:] @ weights).argmax(axis=1) == target[half:]).mean())


def test_colours_do_not_give_the_class_away(shapes: list[Shape]) -> None:
    target = labels(shapes)
    bins = [(shape.image // 64 @ [16, 4, 1]).ravel() for shape in shapes]
    histograms = np.stack([np.bincount(each, minlength=64) for each in bins]).astype(float)
    means = np.stack([shape.image.mean(axis=(0, 1)) for shape in shapes])
    chance = 1 / len(CLASSES)  # of 480 images; one standard deviation is 0.015
    assert linear_probe(histograms, target) < chance + 0.06
    assert linear_probe(means, target) < chance + 0.06
    # The same probe finds the class in the outline: how full the box is, and how square.
    boxes = np.array([shape.box for shape in shapes])
    sides = boxes[:, 2:] - boxes[:, :2]
    area = np.array([shape.mask.sum() for shape in shapes])
    fullness, aspect = area / sides.prod(axis=1), sides.min(axis=1) / sides.max(axis=1)
    outline = np.stack([fullness, fullness**2, aspect, fullness * aspect], axis=1)
    assert linear_probe(outline, target) > 3 * chance


@pytest.mark.parametrize(
    ("index", "seed", "size", "fragment"),
    [(-1, 0, 64, "index=-1"), (0, -2, 64, "seed=-2"), (0, 0, MIN_SIZE - 1, "size=15")],
)
def test_wrong_arguments(index: int, seed: int, size: int, fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        draw(index, seed=seed, size=size)
