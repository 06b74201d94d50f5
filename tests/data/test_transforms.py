"""Preprocessing against timm's evaluation transform, to the bit, and against plain formulas."""

from dataclasses import replace
from math import floor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

from vitkit.data.transforms import RESAMPLING, Preprocess
from vitkit.errors import ConfigError

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SIZES = [(40, 40), (57, 40), (40, 57), (31, 90), (200, 33), (12, 20), (9, 9), (1, 30)]  # H, W


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with noise on them, so that every way to resize differs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int64)
    noise = rng.integers(-40, 41, smooth.shape)
    return (smooth + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [24, 33])
@pytest.mark.parametrize("crop", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", RESAMPLING)
def test_timm_square(size: tuple[int, int], side: int, crop: float, interpolation: Any) -> None:
    ours = Preprocess(image_size=(side, side), crop=crop, interpolation=interpolation, **IMAGENET)
    theirs = create_transform(
        (3, side, side), is_training=False, crop_pct=crop, interpolation=interpolation, **IMAGENET
    )
    image = photo(*size)
    given = ours(image)
    assert given.shape == (3, side, side) and given.dtype == torch.float32
    assert torch.equal(given, theirs(Image.fromarray(image)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("frame", [(24, 24), (16, 32)])
@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_timm_squash(size: tuple[int, int], frame: tuple[int, int], crop: float) -> None:
    ours = Preprocess(image_size=frame, crop=crop, crop_mode="squash", **IMAGENET)
    theirs = create_transform(
        (3, *frame), is_training=False, crop_pct=crop, crop_mode="squash", **IMAGENET,
        interpolation="bicubic",
    )  # fmt: skip
    image = photo(*size)
    assert torch.equal(ours(image), theirs(Image.fromarray(image)))


@pytest.mark.parametrize("frame", [(16, 32), (32, 16), (20, 21)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [0.8, 1.0])
def test_covers_and_cuts_the_middle(
    frame: tuple[int, int], size: tuple[int, int], crop: float
) -> None:
    """Sides of the resized image by the smallest scale that covers the frame on both."""
    image = photo(*size)
    scaled = [floor(side / crop) for side in frame]
    scale = max(scaled[0] / size[0], scaled[1] / size[1])
    height, width = (
        max(floor(side * scale + 1e-9), least) for side, least in zip(size, scaled, strict=True)
    )
    whole = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - frame[0]) / 2), round((width - frame[1]) / 2)
    expected = np.asarray(whole)[top : top + frame[0], left : left + frame[1]]
    given = Preprocess(image_size=frame, crop=crop, interpolation="bilinear").fit(image)
    np.testing.assert_array_equal(given, expected.transpose(2, 0, 1))


def test_grey_is_luminance() -> None:
    image = photo(30, 30)
    preprocess = Preprocess(image_size=(30, 30), mean=(0.25,), std=(0.5,))
    grey = preprocess.fit(image)
    assert preprocess.channels == 1 and grey.shape == (1, 30, 30) and grey.dtype == np.uint8
    luminance = image @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(grey[0], luminance, atol=0.51)
    expected = (grey.astype(np.float64) / 255 - 0.25) / 0.5
    np.testing.assert_allclose(preprocess(image).numpy(), expected, atol=1e-6)


def test_call_is_fit_then_normalise() -> None:
    preprocess = Preprocess(image_size=(16, 24), **IMAGENET)
    images = [photo(20 + i, 50 - i, seed=i) for i in range(4)]
    batch = torch.from_numpy(np.stack([preprocess.fit(image) for image in images]))
    before = batch.clone()
    together = preprocess.normalise(batch)
    assert torch.equal(batch, before)
    for image, row in zip(images, together, strict=True):
        assert torch.equal(preprocess(image), row)
    mean, std = (np.array(IMAGENET[key])[:, None, None] for key in ("mean", "std"))
    np.testing.assert_allclose(together.numpy(), (before.numpy() / 255 - mean) / std, atol=1e-6)


@pytest.mark.parametrize("writeable", [True, False])
def test_the_image_is_left_alone(writeable: bool) -> None:
    image = photo(24, 24)
    image.flags.writeable = writeable
    before = image.copy()
    fitted = Preprocess(image_size=(24, 24)).fit(image)
    np.testing.assert_array_equal(fitted, before.transpose(2, 0, 1))  # nothing to resize
    assert fitted.flags.c_contiguous
    fitted[:] = 0
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(image_size=(24, 32), crop=0.9, interpolation="bilinear", **IMAGENET),
        Preprocess(image_size=(8, 8), mean=(0.1,), std=(0.3,)),
    ],
)
def test_timm_keys_round_trip(preprocess: Preprocess) -> None:
    assert Preprocess.from_timm(preprocess.to_timm()) == preprocess


def test_to_timm() -> None:
    cfg = Preprocess(image_size=(24, 32), crop=0.9, interpolation="bilinear", **IMAGENET).to_timm()
    assert cfg == {
        "input_size": [3, 24, 32],
        "crop_pct": 0.9,
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_from_timm_defaults() -> None:
    """What timm's own resolution takes where a `pretrained_cfg` is silent."""
    from timm.data import resolve_data_config

    resolved = resolve_data_config(pretrained_cfg={"input_size": (3, 24, 24)})
    ours = Preprocess.from_timm({"input_size": [3, 24, 24]})
    assert ours.crop == resolved["crop_pct"] and ours.interpolation == resolved["interpolation"]
    assert (ours.mean, ours.std) == (resolved["mean"], resolved["std"])


def test_other_crop_modes_are_refused() -> None:
    with pytest.raises(ConfigError, match="crop_mode='border'"):
        Preprocess.from_timm({"input_size": [3, 24, 24], "crop_mode": "border"})


def test_channels_that_disagree_are_refused() -> None:
    with pytest.raises(ConfigError, match="input_size"):
        Preprocess.from_timm({"input_size": [1, 24, 24], **IMAGENET})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 0.0}, r"crop=0.0 is not in \(0, 1\]"),
        ({"crop": 1.1}, r"crop=1.1 is not in \(0, 1\]"),
        ({"crop": float("nan")}, "crop=nan"),
        ({"interpolation": "hamming"}, "'hamming' is unknown; choose nearest, bilinear"),
        ({"mean": (0.5, 0.5)}, "1 or 3 values"),
        ({"mean": (0.5,)}, "1 or 3 values"),
        ({"mean": (), "std": ()}, "1 or 3 values"),
        ({"std": (0.5, 0.0, 0.5)}, "std at least 1e-6"),
        ({"std": (0.5, -1.0, 0.5)}, "std at least 1e-6"),
        ({"std": (0.5, float("nan"), 0.5)}, "must be numbers"),
        ({"mean": (0.5, float("inf"), 0.5)}, "must be numbers"),
        ({"mean": ("a", "b", "c")}, "must be numbers"),
        ({"crop": "all"}, r"crop='all' is not in \(0, 1\]"),
        ({"crop": 1e-9}, "needs images of more than 8192 x 8192 pixels"),
        ({"image_size": (24.0, 24)}, r"image_size=\(24.0, 24\) is not"),
        ({"image_size": (8193, 1)}, "needs images of more than"),
        ({"image_size": (0, 24)}, r"image_size=\(0, 24\)"),
        ({"image_size": (24,)}, r"image_size=\(24,\)"),
    ],
)
def test_values_out_of_range(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(Preprocess(image_size=(24, 24)), **change)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (1, 2_000_000)])
@pytest.mark.parametrize("frame", [(32, 32), (8, 64)])
def test_extreme_shapes(
    size: tuple[int, int], frame: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image of one colour stays so, and a line of pixels never becomes a vast picture."""
    resize = Image.Image.resize

    def watched(image: Image.Image, to: tuple[int, int], *rest: Any) -> Image.Image:
        assert to[0] * to[1] < 10_000_000
        return resize(image, to, *rest)

    monkeypatch.setattr(Image.Image, "resize", watched)
    image = np.full((*size, 3), (10, 200, 77), np.uint8)
    fitted = Preprocess(image_size=frame).fit(image)
    assert fitted.shape == (3, *frame)
    assert (fitted == np.array([10, 200, 77])[:, None, None]).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_an_extreme_shape_shows_its_middle(axis: int) -> None:
    image = np.zeros((1_000_001, 1, 3), np.uint8)
    image[500_000] = 255
    image = image.swapaxes(0, axis)
    preprocess = Preprocess(image_size=(33, 33), interpolation="nearest")
    assert (preprocess.fit(image) == 255).all()


@pytest.mark.parametrize("frame", [(24, 24), (4, 40)])
def test_what_is_left_out_was_not_seen(frame: tuple[int, int]) -> None:
    """Past the limit the ends are cut before resizing; the middle comes out the same."""
    image = photo(7, 7 * 400)
    height = frame[0]
    whole = Image.fromarray(image).resize((height * 400, height), Image.Resampling.BILINEAR)
    left = round((whole.width - frame[1]) / 2)
    expected = np.asarray(whole)[:, left : left + frame[1]].transpose(2, 0, 1).astype(int)
    given = Preprocess(image_size=frame, interpolation="bilinear").fit(image)
    assert np.abs(given - expected).max() <= 1
