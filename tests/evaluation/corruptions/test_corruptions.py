"""All kinds of corruption, by what is true of each and by what they do to an image's statistics."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitkit.errors import ConfigError
from vitkit.evaluation.corruptions import KINDS, SEVERITIES, corrupt
from vitkit.evaluation.corruptions.levels import RELEASED, levels
from vitkit.evaluation.corruptions.levels import in_words as levels_in_words


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with detail, (3, h, w): neither black nor white."""
    random = np.random.default_rng(seed)
    small = random.integers(40, 215, (6, 6, 3), dtype=np.uint8)
    size = (width, height)
    large = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC), np.int16)
    return (
        np.clip(large + random.integers(-12, 13, large.shape), 0, 255)
        .astype(np.uint8)
        .transpose(2, 0, 1)
    )


def corrupted(image: NDArray[np.uint8], kind: str, severity: int) -> NDArray[np.uint8]:
    return corrupt(image, kind, severity, np.random.default_rng((7, severity)))


def harm(image: NDArray[np.uint8], kind: str, severity: int) -> float:
    return float(np.abs(corrupted(image, kind, severity).astype(int) - image).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (8, 8), (32, 32), (40, 64), (224, 224)])
def test_any_shape(kind: str, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    for severity in SEVERITIES if shape != (224, 224) else (5,):
        damaged = corrupted(image, kind, severity)
        assert (damaged.shape, damaged.dtype) == (image.shape, np.uint8)
    assert min(shape) < 8 or not np.array_equal(damaged, image)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_draws_make_the_same_image(kind: str) -> None:
    image = picture(48, 48)
    kept = image.copy()
    first = corrupted(image, kind, 3)
    assert np.array_equal(first, corrupted(image, kind, 3))
    assert np.array_equal(image, kept)
    other = corrupt(image, kind, 3, np.random.default_rng(99))
    drawn = kind not in (
        *("gaussian_blur", "defocus_blur", "zoom_blur", "brightness", "contrast", "saturate"),
        *("pixelate", "jpeg_compression"),
    )
    assert drawn != np.array_equal(first, other)


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("kind", sorted({*KINDS} - {"glass_blur", "elastic_transform", "saturate"}))
def test_each_severity_is_worse(kind: str, side: int) -> None:
    """Of the others the authors' own parameters do not rise in every step."""
    image = picture(side, side)
    found = [harm(image, kind, severity) for severity in SEVERITIES]
    steps = np.diff(found) if kind not in ("motion_blur", "snow", "fog") else [found[4] - found[0]]
    assert min(steps) > 0, found


@pytest.mark.parametrize("kind", KINDS)
def test_levels_are_the_released_ones_at_both_sizes_and_between_them_between(kind: str) -> None:
    for severity in SEVERITIES:
        small, large = (table[severity - 1] for table in RELEASED[kind])
        assert levels(kind, severity, 32) == levels(kind, severity, 8) == small
        assert levels(kind, severity, 224) == levels(kind, severity, 512) == pytest.approx(large)
        middle = levels(kind, severity, round((32 * 224) ** 0.5))
        halfway = [(a + b) / 2 for a, b in zip(small, large, strict=True)]
        assert middle == pytest.approx(halfway, rel=0.02, abs=0.01)


def test_sizes_in_words() -> None:
    assert levels_in_words(28) == "severities as published for 32 pixels"
    assert levels_in_words(384) == "severities as published for 224 pixels"
    assert "for 96 pixels, between those published for 32 and 224" in levels_in_words(96)


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [("gaussian_noise", [0.08, 0.12, 0.18]), ("speckle_noise", [0.075, 0.1, 0.175])],
)
def test_noise_has_the_published_deviation(kind: str, deviation: list[float]) -> None:
    grey = np.full((3, 224, 224), 127.5 // 1, np.uint8)
    for severity, expected in enumerate(deviation, 1):
        found = (corrupted(grey, kind, severity).astype(float) / 255).std()
        assert found == pytest.approx(expected, rel=0.02)


def test_shot_noise_is_poissons() -> None:
    grey = np.full((3, 224, 224), 51, np.uint8)  # 0.2 of 60 photons: 12
    found = corrupted(grey, "shot_noise", 1).astype(float) / 255
    assert found.mean() == pytest.approx(0.2, rel=0.01)
    assert found.std() == pytest.approx(12**0.5 / 60, rel=0.02)


def test_impulses_are_black_and_white_in_equal_parts() -> None:
    grey = np.full((3, 224, 224), 100, np.uint8)
    found = corrupted(grey, "impulse_noise", 5)
    assert set(np.unique(found)) == {0, 100, 255}
    assert np.mean(found == 0) == pytest.approx(0.135, rel=0.05)
    assert np.mean(found == 255) == pytest.approx(0.135, rel=0.05)


@pytest.mark.parametrize(
    "kind", ["gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"]
)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_changes_nothing_that_is_even(kind: str, severity: int) -> None:
    even = np.full((3, 60, 50), 77, np.uint8)
    assert np.array_equal(corrupted(even, kind, severity), even)


@pytest.mark.parametrize("kind", ["elastic_transform", "pixelate", "contrast"])
def test_nor_do_these(kind: str) -> None:
    even = np.full((3, 60, 50), 77, np.uint8)
    assert np.array_equal(corrupted(even, kind, 5), even)


def test_contrast_keeps_the_mean_and_a_share_of_the_spread() -> None:
    image = picture(224, 224)
    found = corrupted(image, "contrast", 1).astype(float)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), image.mean(axis=(1, 2)), atol=0.2)
    np.testing.assert_allclose(found.std(axis=(1, 2)), 0.4 * image.std(axis=(1, 2)), rtol=0.02)


@pytest.mark.parametrize(
    ("kind", "channel", "levels"), [("brightness", 2, None), ("saturate", 1, 1)]
)
def test_hsv_against_pythons_own(kind: str, channel: int, levels: object) -> None:
    import colorsys

    from vitkit.evaluation.corruptions.levels import levels as parameters

    random = np.random.default_rng(0)
    image = random.integers(0, 256, (3, 224, 1), dtype=np.uint8)
    image[:, :3, 0] = [[0, 90, 255]] * 3  # black, grey and white
    for severity in SEVERITIES:
        level = parameters(kind, severity, 1)
        expected = []
        for pixel in image[:, :, 0].T / 255:
            hsv = list(colorsys.rgb_to_hsv(*pixel))
            hsv[channel] = (
                hsv[channel] + level[0]
                if kind == "brightness"
                else hsv[channel] * level[0] + level[1]
            )
            hsv[channel] = min(max(hsv[channel], 0), 1)
            expected.append([round(255 * value) for value in colorsys.hsv_to_rgb(*hsv)])
        found = corrupted(image, kind, severity)[:, :, 0].T.astype(int)
        assert np.abs(found - expected).max() <= 1


def test_jpeg_and_pixelate_are_pillows() -> None:
    image = picture(224, 224)
    whole = Image.fromarray(image.transpose(1, 2, 0))
    file = io.BytesIO()
    whole.save(file, "JPEG", quality=7)
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1)
    assert np.array_equal(corrupted(image, "jpeg_compression", 5), expected)
    box = Image.Resampling.BOX
    blocks = np.asarray(whole.resize((56, 56), box).resize((224, 224), box)).transpose(2, 0, 1)
    assert np.array_equal(corrupted(image, "pixelate", 5), blocks)
    assert np.array_equal(blocks[:, ::4, ::4].repeat(4, 1).repeat(4, 2), blocks)


def test_fog_never_makes_it_brighter_than_it_was() -> None:
    image = picture(64, 64)
    for severity in SEVERITIES:
        assert corrupted(image, "fog", severity).max() <= image.max()


@pytest.mark.parametrize(
    ("kind", "severity", "message"),
    [
        (
            "gausian_noise",
            1,
            "corruption 'gausian_noise' is unknown, did you mean 'gaussian_noise'",
        ),
        ("fog", 0, "severity=0 is not one of 1 to 5"),
        ("fog", 6, "severity=6"),
    ],
)
def test_mistakes(kind: str, severity: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        corrupted(picture(8, 8), kind, severity)
