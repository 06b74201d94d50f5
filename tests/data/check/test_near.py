from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from vitkit.data.check import near
from vitkit.data.check.look import thumbnail
from vitkit.data.check.near import KEPT, TURNS, near_pairs, perceptual_hash, turned

Change = Callable[[Image.Image], Image.Image]


def noise(count: int, side: int = 16, seed: int = 0) -> np.ndarray:
    """Thumbnails that have nothing in common."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, side, side), dtype=np.uint8)


def large(count: int) -> np.ndarray:
    """Shorter sides of images for which the limit is strict."""
    return np.full(count, 200)


def turn_pixels(thumbs: np.ndarray, turn: int) -> np.ndarray:
    x = thumbs.transpose(0, 2, 1) if turn & 4 else thumbs
    x = x[:, :, ::-1] if turn & 1 else x
    return x[:, ::-1] if turn & 2 else x


def found(pairs: near.Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def test_the_hash_is_scipys_transform() -> None:
    thumbs = noise(5)
    ours, deviation = perceptual_hash(thumbs)
    expected = dctn(thumbs.astype(np.float64), axes=(1, 2), norm="ortho")[:, :KEPT, :KEPT].copy()
    expected[:, 0, 0] = 0
    expected = expected.reshape(5, -1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    np.testing.assert_allclose(deviation, thumbs.reshape(5, -1).std(axis=1), rtol=1e-6)


@pytest.mark.parametrize("turn", range(len(TURNS)))
def test_a_hash_turns_as_its_image_does(turn: int) -> None:
    thumbs = noise(4)
    expected, _ = perceptual_hash(turn_pixels(thumbs, turn))
    np.testing.assert_allclose(turned(perceptual_hash(thumbs)[0], turn), expected, atol=1e-5)


def test_the_first_look_loses_nothing() -> None:
    hashes, _ = perceptual_hash(noise(60))
    left, right = near._fingerprints(hashes)
    bound = -(left @ right.T)  # half of the squared distance of the fingerprints
    apart = 1 - np.max([hashes @ turned(hashes, turn).T for turn in range(len(TURNS))], axis=0)
    assert (bound <= apart + 1e-5).all()
    assert np.abs(np.diag(bound)).max() < 1e-5


def test_the_same_pairs_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    thumbs = noise(90)
    blurred = np.clip(thumbs[:40].astype(int) + noise(40, seed=1) // 16 - 8, 0, 255)
    thumbs = np.concatenate([thumbs, turn_pixels(blurred.astype(np.uint8), 6)])
    whole = near_pairs(thumbs, large(130))
    assert found(whole) == {(row, 90 + row) for row in range(40)}
    assert set(whole.turn.tolist()) == {5}  # back by the other quarter
    assert (np.diff(whole.alike) <= 0).all() and whole.alike.max() <= 1
    monkeypatch.setattr(near, "BLOCK", (7, 16))
    monkeypatch.setattr(near, "CHUNK", 3)
    parts = near_pairs(thumbs, large(130))
    assert found(parts) == found(whole) and np.allclose(parts.alike, whole.alike, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_images_or_none(count: int) -> None:
    assert found(near_pairs(noise(count), large(count))) == set()


def test_even_images_are_in_no_pair() -> None:
    flat = np.full((4, 16, 16), 100, np.uint8)
    flat[1, 0, 0] = 101
    assert found(near_pairs(flat, large(4))) == set()


def test_light_and_contrast_make_no_difference() -> None:
    thumbs = noise(2)
    changed = (thumbs // 2 + 40).astype(np.uint8)
    assert found(near_pairs(np.concatenate([thumbs, changed]), large(4))) == {(0, 2), (1, 3)}


def test_the_coarse_half_alone_is_not_enough() -> None:
    """Light above dark: all agrees but what is before it."""
    scene = np.zeros((2, 16, 16), np.float64)
    scene += 120 + 80 * np.cos(np.pi * (np.arange(16)[:, None] + 0.5) / 16)
    scene[0, 6:8, 3:6] -= 60
    scene[1, 5:8, 8:9] -= 60
    thumbs = scene.astype(np.uint8)
    hashes, _ = perceptual_hash(thumbs)
    limits = np.full(2, near.LOOSE)
    first, second = np.array([0]), np.array([1])
    assert float(hashes[0] @ hashes[1]) > 1 - near.LOOSE
    assert not len(near._second_look(hashes, limits, first, second).alike)


def test_small_images_may_differ_more() -> None:
    thumbs = noise(1)
    other = np.clip(thumbs.astype(int) + noise(1, seed=2) // 5 - 25, 0, 255).astype(np.uint8)
    pair = np.concatenate([thumbs, other])
    hashes, _ = perceptual_hash(pair)
    assert near.STRICT < 1 - float(hashes[0] @ hashes[1]) < near.LOOSE
    assert found(near_pairs(pair, np.array([32, 500]))) == {(0, 1)}
    assert found(near_pairs(pair, np.array([200, 500]))) == set()


def test_a_crowded_set_is_judged_more_strictly() -> None:
    """Where different images are as alike as bad copies are, only good copies count."""
    base = noise(1)[0].astype(int)
    random = np.random.default_rng(5)
    thumbs = np.clip(base + random.integers(-22, 23, (200, 16, 16)), 0, 255).astype(np.uint8)
    few = near_pairs(thumbs[:2], np.full(2, 32))
    assert found(few) == {(0, 1)}
    assert len(near_pairs(thumbs, np.full(200, 32)).first) < 20


@pytest.mark.parametrize("size", [96, 32])
def test_planted_copies_of_drawn_images(
    drawn: list[Image.Image], changes: dict[str, Change], size: int
) -> None:
    images = [image.resize((size, size), Image.Resampling.LANCZOS) for image in drawn]
    for name, change in changes.items():
        copies = [change(image) for image in images]
        both = [*images, *copies]
        thumbs = np.stack([thumbnail(image.convert("L")) for image in both])
        pairs = found(near_pairs(thumbs, np.array([min(image.size) for image in both])))
        planted = {(row, row + len(images)) for row in range(len(images))}
        assert len(pairs & planted) >= 0.95 * len(planted), name
        alarms = {pair for pair in pairs if pair[1] < len(images)}
        assert len(alarms) <= 0.05 * len(images), name
