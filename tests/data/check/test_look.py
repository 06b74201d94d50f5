import numpy as np
import pytest
from PIL import Image, ImageFilter

from vitkit.data.audit import content_key
from vitkit.data.check.look import MEASURES, look, look_at_fitted, measure, thumbnail
from vitkit.data.sources import Sample, Source
from vitkit.errors import ImageError


def measured(image: Image.Image) -> dict[str, float]:
    return dict(zip(MEASURES, measure(image), strict=True))


def noisy(width: int, height: int, low: int = 0, high: int = 256) -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(low, high, (height, width), dtype=np.uint8))


def test_size_and_shape() -> None:
    found = measured(noisy(400, 100))
    assert (found["side"], found["oblong"]) == (200, 4)
    assert measured(noisy(100, 400))["oblong"] == 4


def test_light_and_contrast() -> None:
    pixels = np.full((50, 40), 30, np.uint8)
    pixels[0, :4] = 255  # less than 2 % of all
    dark = measured(Image.fromarray(pixels))
    assert (dark["dark"], dark["bright"]) == (30, 30)
    halves = np.zeros((50, 40), np.uint8)
    halves[:25] = 200
    found = measured(Image.fromarray(halves))
    assert (found["dark"], found["bright"], found["contrast"]) == (200, 0, 100)


def test_blur_takes_the_edges() -> None:
    sharp = noisy(128, 128)
    blurred = sharp.filter(ImageFilter.GaussianBlur(3))
    assert measured(blurred)["edges"] < measured(sharp)["edges"] / 10
    assert measured(Image.new("L", (9, 9), 7))["edges"] == 0
    step = np.zeros((20, 20), np.uint8)
    step[:, 10:] = 200
    assert measured(Image.fromarray(step))["edges"] == 200


def test_large_images_are_judged_at_the_size_of_a_model() -> None:
    blurred = noisy(64, 64).resize((1024, 1024), Image.Resampling.BICUBIC)
    assert measured(blurred)["edges"] > 50
    assert measured(blurred)["side"] == 1024


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 900), (900, 1), (3, 3)])
def test_the_smallest_images(width: int, height: int) -> None:
    found = measured(noisy(width, height))
    assert np.isnan(found["edges"]) == (min(width, height) < 3)
    assert all(np.isfinite(value) for name, value in found.items() if name != "edges")
    assert thumbnail(noisy(width, height)).shape == (16, 16)


def test_a_thumbnail_is_the_mean_of_its_parts() -> None:
    image = noisy(64, 32)
    expected = np.asarray(image, np.float64).reshape(16, 2, 16, 4).mean(axis=(1, 3))
    assert np.abs(thumbnail(image) - expected).max() <= 1


def test_every_sample_has_its_row() -> None:
    images = [np.full((4 + row, 6, 3), 2 * row, np.uint8) for row in range(100)]

    def read(index: int, view: object = None) -> np.ndarray:
        if index == 70:
            raise ImageError("is broken")
        return images[index]

    source = Source("x", ("a",), tuple(Sample(f"{row}", 0) for row in range(100)), read)
    looks = look(source, workers=3)
    assert looks.unreadable == (("70", "is broken"),)
    keys = [content_key(image) for image in images]
    assert list(looks.keys) == [*keys[:70], None, *keys[71:]]
    readable = [row for row in range(100) if row != 70]
    assert looks.thumbs[readable, 3, 3].tolist() == [2 * row for row in readable]
    assert looks.shorter[readable].tolist() == [min(4 + row, 6) for row in readable]
    assert np.flatnonzero(np.isnan(looks.measures["side"])).tolist() == [70]
    assert looks.measures["side"][12] == pytest.approx((16 * 6) ** 0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_fitted_images_are_seen_as_they_are_from_files(channels: int) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (300, channels, 32, 48), dtype=np.uint8)
    keys = [None if row == 7 else b"%d" % row for row in range(300)]
    looks = look_at_fitted(images, keys, [("7", "broken")])
    assert looks.unreadable == (("7", "broken"),) and looks.keys == tuple(keys)
    assert np.isnan(looks.measures["contrast"][7]) and set(looks.shorter) == {32}
    assert np.isnan(looks.measures["side"]).all()
    for row in (0, 255, 299):  # of two batches
        pixels = np.broadcast_to(images[row].transpose(1, 2, 0), (32, 48, 3))
        grey = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
        assert np.abs(looks.thumbs[row].astype(int) - thumbnail(grey)).max() <= 1
        for name, value in measured(grey).items():
            if name not in ("side", "oblong"):
                assert looks.measures[name][row] == pytest.approx(value, abs=4), name
