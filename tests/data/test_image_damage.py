"""Files that are cut short, changed, or meant to do harm."""

import random
import struct
import threading
import time
import warnings
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from vitkit.data.image import decode
from vitkit.errors import ImageError

Pixels = NDArray[np.uint8]
rng = np.random.default_rng(0)
NOISE = rng.integers(0, 256, (12, 17, 3), dtype=np.uint8)
PALETTE = Image.fromarray(NOISE).quantize(16)


def encode(image: Image.Image | NDArray[Any], form: str, **options: Any) -> bytes:
    file = BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(file, form, **options)
    return file.getvalue()


def small(form: str, **options: Any) -> bytes:
    base = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((24, 18))
    exif = Image.Exif()
    exif[274], exif[282], exif[270] = 6, 72.0, "words"
    return encode(base, form, exif=exif, **options)


def animation(form: str) -> bytes:
    frames = [Image.new("RGB", (24, 18), colour) for colour in ("red", "lime")]
    return encode(frames[0], form, save_all=True, append_images=frames[1:])


SMALL = {
    "jpeg": small("JPEG"),
    "progressive": small("JPEG", progressive=True),
    "png": small("PNG"),
    "png-animated": animation("PNG"),
    "png-palette": encode(PALETTE, "PNG", transparency=bytes(range(0, 256, 16))),
    "gif": encode(PALETTE, "GIF"),
    "gif-animated": animation("GIF"),
    "webp": small("WebP"),
    "webp-animated": animation("WebP"),
    "bmp": encode(NOISE, "BMP"),
    "tiff": encode(NOISE, "TIFF"),
    "tiff-lzw": small("TIFF", compression="tiff_lzw"),
    "tiff-jpeg": small("TIFF", compression="jpeg"),
    "tiff-fax": encode(NOISE[..., 0] > 127, "TIFF", compression="group4"),
    "tiff-16": encode(rng.integers(0, 65536, (9, 9), dtype=np.uint16), "TIFF"),
    "tiff-big": encode(NOISE, "TIFF", big_tiff=True),
}


def attempt(data: bytes) -> Pixels | None:
    """Pixels or None for an ImageError; anything else, a warning too, fails the test."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            image = decode(data)
        except ImageError as error:
            assert "\n" not in str(error)
            image = None
    assert [str(warning.message) for warning in heard] == []
    assert image is None or (image.dtype == np.uint8 and image.shape[2:] == (3,))
    return image


@pytest.mark.parametrize("name", SMALL)
def test_every_prefix(name: str) -> None:
    """A file cut short gives an error, or, where only metadata is lost, the same pixels."""
    data = SMALL[name]
    whole = decode(data)
    for end in range(0, len(data), 1 + len(data) // 600):
        image = attempt(data[:end])
        assert image is None or np.array_equal(image, whole)
    assert attempt(data[: len(data) // 3]) is None or "animated" in name


@pytest.mark.parametrize("name", SMALL)
def test_flipped_bytes(name: str) -> None:
    chance = random.Random(name)
    start = time.perf_counter()
    for _ in range(300):
        data = bytearray(SMALL[name])
        reach = chance.choice((64, len(data)))  # headers are short, and half of the damage is there
        for _ in range(chance.choice((1, 2, 5))):
            data[chance.randrange(min(reach, len(data)))] = chance.choice(
                (0, 255, chance.randrange(256))
            )
        attempt(bytes(data))
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "webp", "bmp", "tiff", "tiff-lzw"])
def test_grey_filling_is_refused_and_the_setting_kept(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = SMALL[name]
    assert attempt(data) is not None
    assert attempt(data[: len(data) * 2 // 3]) is None
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_tiff_that_lacks_a_strip() -> None:
    data = bytearray(encode(np.full((8, 8), 9, np.uint8), "TIFF", tiffinfo={278: 2}))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, length, _ = struct.unpack_from("<HHII", data, at)
        if tag in (273, 279):  # offsets and byte counts of strips
            assert length == 4  # strips of 2 rows
            struct.pack_into("<I", data, at + 4, length - 1)
    with pytest.raises(ImageError, match="lacks strips"):
        decode(bytes(data))


def test_threads() -> None:
    expected = {name: decode(data) for name, data in SMALL.items()}
    wrong: list[str] = []

    def work(seed: int) -> None:
        names = random.Random(seed).choices(list(SMALL), k=150)
        wrong.extend(n for n in names if not np.array_equal(decode(SMALL[n]), expected[n]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
