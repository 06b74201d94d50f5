"""Scores under corruption, with models that answer by what they see."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitkit.evaluation.corruptions import KINDS, corrupt
from vitkit.evaluation.robustness import Ordeal, Robustness, damage
from vitkit.progress import Progress


def images(count: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, channels, 8, 10), dtype=np.uint8)


def brightest_half(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Is the upper half brighter (class 0) or the lower (class 1)?"""
    upper = batch[:, :, :4].mean(axis=(1, 2, 3)) > batch[:, :, 4:].mean(axis=(1, 2, 3))
    return np.stack([upper, ~upper], axis=1).astype(np.float32)


def endured(batch: NDArray[np.uint8], sizes: list[int], workers: int = 1) -> Robustness:
    ordeal = Ordeal(brightest_half, total=len(batch), workers=workers)
    labels = brightest_half(batch).argmax(axis=1)
    start = 0
    for size in sizes:
        part = range(start, start + size)
        ordeal.add(batch[part], list(part), labels[part])
        start += size
    return ordeal.result()


def test_scores_are_those_of_the_corrupted_images() -> None:
    batch = images(12)
    labels = brightest_half(batch).argmax(axis=1)
    found = endured(batch, [12])
    assert list(found.kinds) == list(KINDS) and found.image_size == (8, 10)
    for number, kind in enumerate(KINDS):
        for severity in (1, 5):
            right = [
                brightest_half(
                    corrupt(image, kind, severity, np.random.default_rng((0, i, number, severity)))[
                        None
                    ]
                ).argmax()
                == label
                for i, (image, label) in enumerate(zip(batch, labels, strict=True))
            ]
            assert found.kinds[kind][severity - 1] == np.mean(right)
    table = np.array(list(found.kinds.values()))
    assert found.mean == pytest.approx(table.mean())
    assert found.by_severity == pytest.approx(table.mean(axis=0))
    assert found.interval[0] < found.mean < found.interval[1] <= 1
    assert table.min() < 1


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7]])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_and_threads_change_nothing(sizes: list[int], workers: int) -> None:
    assert endured(images(12), sizes, workers) == endured(images(12), [12])


def test_grey_inputs_stay_grey() -> None:
    (grey,) = images(1, channels=1)
    for kind in KINDS:
        found = damage(grey, (0, 0), kind=kind, severity=4)
        assert (found.shape, found.dtype) == (grey.shape, np.uint8)
    colours = corrupt(np.repeat(grey, 3, 0), "saturate", 5, np.random.default_rng((0, 0)))
    expected = np.asarray(Image.fromarray(colours.transpose(1, 2, 0)).convert("L"))
    assert np.array_equal(damage(grey, (0, 0), kind="saturate", severity=5)[0], expected)


def test_progress_counts_every_corrupted_image() -> None:
    heard: list[Progress] = []
    ordeal = Ordeal(brightest_half, total=3, workers=1, listen=heard.append)
    ordeal.add(images(2), [0, 1], np.array([0, 1]))
    ordeal.add(images(1), [2], np.array([0]))
    ways = len(KINDS) * 5
    done = [2 * n for n in range(1, ways + 1)] + [2 * ways + n for n in range(1, ways + 1)]
    assert [(p.phase, p.done, p.total) for p in heard] == [("corrupt", n, 3 * ways) for n in done]


def test_json() -> None:
    found = endured(images(4), [4])
    assert Robustness.from_json(json.loads(json.dumps(asdict(found)))) == found
