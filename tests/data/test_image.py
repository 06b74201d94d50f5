import struct
import time
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from vitkit.data.image import _READERS, decode, read_file
from vitkit.data.view import View
from vitkit.errors import ImageError

Pixels = NDArray[np.uint8]
rng = np.random.default_rng(0)
NOISE = rng.integers(0, 256, (12, 17, 3), dtype=np.uint8)


def encode(image: Image.Image | NDArray[Any], form: str, **options: Any) -> bytes:
    file = BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(file, form, **options)
    return file.getvalue()


def grey(values: Any) -> Pixels:
    """One channel three times."""
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


# --- kinds of pixels, each against arithmetic -----------------------------------------------------

ALPHA = rng.integers(0, 256, (12, 17, 1), dtype=np.uint8)
ON_WHITE = (NOISE * (ALPHA / 255) + 255 * (1 - ALPHA / 255)).round().astype(np.uint8)
BITS = NOISE[..., 0] > 127


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WebP"])
def test_rgb_is_kept(form: str) -> None:
    data = encode(NOISE, form, **({"lossless": True} if form == "WebP" else {}))
    image = decode(data)
    np.testing.assert_array_equal(image, NOISE)
    assert image.flags.c_contiguous


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_matches_pillow(quality: int, progressive: bool) -> None:
    data = encode(NOISE, "JPEG", quality=quality, progressive=progressive)
    with Image.open(BytesIO(data)) as file:
        np.testing.assert_array_equal(decode(data), np.asarray(file))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WebP"])
def test_alpha_lies_on_white(form: str) -> None:
    image = np.concatenate([NOISE, ALPHA], axis=2)
    data = encode(image, form, **({"lossless": True, "exact": True} if form == "WebP" else {}))
    np.testing.assert_allclose(decode(data), ON_WHITE, atol=1)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_alpha_lies_on_white(form: str) -> None:
    data = encode(np.concatenate([NOISE[..., :1], ALPHA], axis=2), form)
    np.testing.assert_allclose(decode(data), grey(ON_WHITE[..., 0]), atol=1)


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF"])
def test_one_bit_and_grey(form: str) -> None:
    np.testing.assert_array_equal(decode(encode(BITS, form)), grey(BITS * 255))
    np.testing.assert_array_equal(decode(encode(NOISE[..., 0], form)), grey(NOISE[..., 0]))


def palette_image() -> tuple[Image.Image, NDArray[Any], NDArray[Any]]:
    colours = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    indices = rng.integers(0, 256, (9, 11), dtype=np.uint8)
    image = Image.fromarray(indices, "L")
    image.putpalette(colours.tobytes())
    return image, colours, indices


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF"])
def test_palette(form: str) -> None:
    image, colours, indices = palette_image()
    np.testing.assert_array_equal(decode(encode(image, form)), colours[indices])


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_transparent_palette_entry_is_white(form: str) -> None:
    image, colours, indices = palette_image()
    colours[key := int(indices[3, 4])] = 255
    data = encode(image, form, transparency=key)
    np.testing.assert_array_equal(decode(data), colours[indices])


def test_palette_of_many_alphas() -> None:
    image, colours, indices = palette_image()
    alphas = rng.integers(0, 256, 256, dtype=np.uint8)
    share = alphas[:, None] / 255
    expected = (colours * share + 255 * (1 - share)).round()[indices]
    data = encode(image, "PNG", transparency=alphas.tobytes())
    np.testing.assert_allclose(decode(data), expected, atol=1)


def png(depth: int, colour_type: int, rows: NDArray[Any], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand (PNG specification, 11.2): filter 0 before each row of bytes."""
    channels = {0: 1, 2: 3}[colour_type]
    width = rows.shape[1] * 8 // (depth * channels)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_grey_of_png(depth: int) -> None:
    levels = rng.integers(0, 2**depth, (5, 16))
    key = int(levels[2, 3])
    bits = (levels[..., None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(5, -1).astype(np.uint8), axis=1)
    expected = np.where(levels == key, 255, levels * 255 // (2**depth - 1))
    data = png(depth, 0, rows, (b"tRNS", struct.pack(">H", key)))
    np.testing.assert_array_equal(decode(data), grey(expected))


def test_16_bit_colour_of_png() -> None:
    values = rng.integers(0, 65536, (4, 6, 3))
    rows = values.astype(">u2").reshape(4, -1).view(np.uint8)
    np.testing.assert_allclose(decode(png(16, 2, rows)), values / 257, atol=1)
    key = struct.pack(">3H", *values[1, 2].tolist())
    assert decode(png(16, 2, rows, (b"tRNS", key)))[1, 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_uses_the_whole_range(form: str) -> None:
    values = np.array([[0, 128, 129, 257, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    image = decode(encode(values, form))
    np.testing.assert_array_equal(image, grey(np.rint(values / 257)))
    assert image[0, :, 0].tolist() == [0, 0, 1, 1, 127, 128, 254, 255, 255]


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_16_bit_grey_of_inverted_tiff(white_is_zero: bool) -> None:
    values = np.array([[0, 257, 65535]], np.uint16)
    data = encode(values, "TIFF", tiffinfo={262: 0 if white_is_zero else 1})
    expected = [255, 254, 0] if white_is_zero else [0, 1, 255]
    assert decode(data)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.25, 0.5, 1], [0, 64, 128, 255]),
        ([-0.01, 0.5, 1.02, 0], [0, 128, 255, 0]),  # resampling overshoots
        ([0, 0.1, 0.2, 0.3], [0, 26, 51, 76]),  # dark stays dark
        ([0, 20, 200, 255], [0, 20, 200, 255]),
        ([0, 257, 32768, 65535], [0, 1, 128, 255]),
        ([-100, 0, 50, 100], [0, 128, 191, 255]),  # heights, stretched
        ([0, 1e6, 5e5, 0], [0, 255, 128, 0]),
        ([0, 1, np.nan, np.inf], [0, 255, 0, 255]),
        ([-3e38, 3e38, 0, 0], [0, 255, 128, 128]),
        ([-7e9, -7e9, -7e9, -7e9], [0, 0, 0, 0]),
    ],
)
def test_float_tiff(values: list[float], expected: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(encode(np.array([values], np.float32), "TIFF"))
    np.testing.assert_allclose(image, grey([expected]), atol=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 128, 255], [0, 1, 128, 255]),
        ([0, 257, 32768, 65535], [0, 1, 128, 255]),
        ([-100, 0, 50, 100], [0, 128, 191, 255]),
    ],
)
def test_32_bit_tiff(values: list[int], expected: list[int]) -> None:
    data = encode(np.array([values], np.int32), "TIFF")
    np.testing.assert_allclose(decode(data), grey([expected]), atol=1)


def test_cmyk_without_a_profile() -> None:
    ink = np.concatenate([NOISE, ALPHA], axis=2).astype(int)
    expected = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    data = encode(Image.fromarray(ink.astype(np.uint8), "CMYK"), "TIFF")
    np.testing.assert_allclose(decode(data), expected, atol=2)


def test_cmyk_jpeg_is_inverted() -> None:
    no_ink = encode(Image.new("CMYK", (8, 8), 0), "JPEG")
    assert decode(no_ink).min() >= 254


def test_ycbcr_tiff() -> None:
    y, cb, cr = (NOISE[..., channel].astype(float) for channel in range(3))
    expected = np.stack(  # ITU-T T.871, 7
        [
            y + 1.402 * (cr - 128),
            y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
            y + 1.772 * (cb - 128),
        ],
        axis=2,
    )
    data = encode(Image.fromarray(NOISE, "YCbCr"), "TIFF")
    np.testing.assert_allclose(decode(data), expected.clip(0, 255), atol=1.5)


def test_lab_tiff() -> None:
    neutral_then_red = np.array(
        [[[255, 0, 0], [0, 0, 0], [136, 80, 67]]], np.uint8
    )  # L 8-bit, a, b
    image = decode(encode(Image.fromarray(neutral_then_red, "LAB"), "TIFF"))
    expected = [[[255, 255, 255], [0, 0, 0], [255, 0, 0]]]  # L*=53.2 a*=80.1 b*=67.2 is sRGB red
    np.testing.assert_allclose(image, expected, atol=12)  # a and b are whole numbers


# --- colour profiles ------------------------------------------------------------------------------


def gamma_profile(gamma: float) -> bytes:
    """An RGB matrix profile (ICC.1:2022) with sRGB's primaries and a plain power curve."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for entry in range(int.from_bytes(data[128:132])):
        at = 132 + 12 * entry
        name, offset, size = struct.unpack_from(">4sII", data, at)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            curve = struct.pack(">4sIHHi", b"para", 0, 0, 0, round(gamma * 65536))
            data[offset : offset + len(curve)] = curve
        if name == b"desc":  # "sRGB built-in" in UTF-16, renamed
            text = bytes(data[offset : offset + size]).replace(
                "sRGB".encode("utf-16-be"), b"\0x" * 4
            )
            data[offset : offset + size] = text
    return bytes(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WebP"])
def test_profile_is_applied(form: str) -> None:
    colour = (200, 100, 50)
    data = encode(Image.new("RGB", (16, 16), colour), form, icc_profile=gamma_profile(1.0))
    linear = np.array(colour) / 255
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    tolerance = 2 if form in ("PNG", "TIFF") else 8  # small errors grow where the curve is steep
    np.testing.assert_allclose(decode(data)[8, 8], expected, atol=tolerance)


@pytest.mark.parametrize("profile", [b"no profile", gamma_profile(1.0)[:200], bytes(500)])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_broken_profile_is_ignored(form: str, profile: bytes) -> None:
    image = np.full((8, 8, 3), 90, np.uint8)
    np.testing.assert_allclose(decode(encode(image, form, icc_profile=profile)), image, atol=1)


def test_profile_for_other_channels_is_ignored() -> None:
    image = NOISE[..., 0]
    data = encode(image, "PNG", icc_profile=gamma_profile(1.0))
    np.testing.assert_array_equal(decode(data), grey(image))


# --- orientation ----------------------------------------------------------------------------------

UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {  # EXIF 2.32, 4.6.5: where row 0, column 0 lie
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize("form", ["PNG", "WebP", "TIFF"])
def test_orientation_is_applied(form: str, number: int) -> None:
    exif = Image.Exif()
    exif[274] = number
    data = encode(NOISE, form, exif=exif, **({"lossless": True} if form == "WebP" else {}))
    image = decode(data)
    np.testing.assert_array_equal(image, UPRIGHT[number](NOISE))
    assert image.flags.c_contiguous


# --- more than one picture ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["GIF", "PNG", "WebP", "TIFF"])
def test_first_picture(form: str) -> None:
    pages = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WebP" else {}
    data = encode(pages[0], form, save_all=True, append_images=pages[1:], **options)
    np.testing.assert_array_equal(decode(data), np.asarray(pages[0]))


def test_gif_frame_smaller_than_its_canvas() -> None:
    data = bytearray(encode(Image.new("RGB", (4, 3), "red"), "GIF"))
    data[6:10] = struct.pack("<HH", 6, 5)
    expected = np.full((5, 6, 3), 255, np.uint8)
    expected[:3, :4] = 255, 0, 0
    np.testing.assert_array_equal(decode(bytes(data)), expected)


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF"])
def test_too_many_pixels(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(NOISE, form)
    assert decode(data, max_pixels=17 * 12).shape == NOISE.shape
    with monkeypatch.context() as patch:  # judged by the header, so nothing is decoded
        patch.setattr(ImageFile.ImageFile, "load", None)
        with pytest.raises(ImageError, match="17x12 pixels are over max_pixels=203"):
            decode(data, max_pixels=203)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(ImageError, match="PIL.Image.MAX_IMAGE_PIXELS=200"):
        decode(data)


def test_webp_canvas_is_judged_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_READERS, "WebP")
    with pytest.raises(ImageError, match="over max_pixels=203"):
        decode(encode(NOISE, "WebP"), max_pixels=203)


def test_claimed_size_costs_nothing() -> None:
    rows = np.zeros((1, 3), np.uint8)
    data = bytearray(png(8, 2, rows))
    data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    start = time.perf_counter()
    with pytest.raises(ImageError, match="over max_pixels"):
        decode(bytes(data))
    assert time.perf_counter() - start < 1


def test_too_many_bytes(tmp_path: Path) -> None:
    data = encode(NOISE, "PNG")
    with pytest.raises(ImageError, match=f"over max_bytes={len(data) - 1}"):
        decode(data, max_bytes=len(data) - 1)
    path = tmp_path / "noise.png"
    path.write_bytes(data)
    assert read_file(path, max_bytes=len(data)) == data
    with pytest.raises(ImageError, match="raise max_bytes"):
        read_file(path, max_bytes=len(data) - 1)


def test_jpeg_of_endless_scans() -> None:
    data = encode(NOISE, "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="scans"):
        decode(data[:-2] + scan * 200 + data[-2:])


@pytest.mark.parametrize("name", ["absent.png", "folder", "\0"])
def test_not_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ImageError) as caught:
        read_file(tmp_path / name)
    assert "\n" not in str(caught.value)


# --- a part of an image ---------------------------------------------------------------------------


def smooth(height: int, width: int) -> Pixels:
    """Waves that a reduction to an eighth keeps."""
    y, x = np.mgrid[:height, :width] / 50
    waves = [np.sin(x), np.sin(y), np.sin(x - y)]
    return (127 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF"])
def test_view_is_a_part(form: str) -> None:
    data = encode(NOISE, form)
    view = View(2, 5, 7, 11, (7, 11))
    sizes: list[tuple[int, int]] = []
    part = decode(data, view=lambda *size: sizes.append(size) or view)
    np.testing.assert_array_equal(part, decode(data)[2:9, 5:16])
    assert sizes == [(12, 17)]
    assert part.flags.c_contiguous


@pytest.mark.parametrize(
    ("side", "least", "divisor"),
    [(200, 201, 1), (200, 200, 1), (200, 101, 1), (200, 100, 2), (200, 51, 2), (200, 50, 4),
     (200, 26, 4), (200, 25, 8), (200, 1, 8)],
)  # fmt: skip
def test_jpeg_is_reduced_as_far_as_the_view_lets_it(side: int, least: int, divisor: int) -> None:
    data = encode(smooth(301, 403), "JPEG")
    with Image.open(BytesIO(data)) as file:
        file.draft(None, (403 // divisor, 301 // divisor))
        reduced = np.asarray(file)
    assert reduced.shape[0] == -(-301 // divisor)
    top, left = 33, 101
    part = decode(data, view=lambda h, w: View(top, left, side, side, (least, least)))
    rows = slice(top // divisor, -(-(top + side) // divisor))
    columns = slice(left // divisor, -(-(left + side) // divisor))
    np.testing.assert_array_equal(part, reduced[rows, columns])
    assert min(part.shape[:2]) >= min(least, side)


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize("divisor", [1, 2, 8])
def test_view_is_of_the_upright_image(number: int, divisor: int) -> None:
    exif = Image.Exif()
    exif[274] = number
    data = encode(smooth(240, 320), "JPEG", quality=95, exif=exif)
    upright = decode(data)
    view = View(40, 16, 160, 192, (160 // divisor, 192 // divisor))
    sizes: list[tuple[int, int]] = []
    part = decode(data, view=lambda *size: sizes.append(size) or view)
    assert sizes == [upright.shape[:2]]
    assert part.shape == (160 // divisor, 192 // divisor, 3)
    shown = upright[40:200, 16:208].reshape(160 // divisor, divisor, 192 // divisor, divisor, 3)
    np.testing.assert_allclose(part, shown.mean(axis=(1, 3)), atol=6)


@pytest.mark.parametrize("least", [200, 25])
def test_a_view_keeps_limits_and_finds_damage(least: int) -> None:
    data = encode(smooth(240, 320), "JPEG")

    def view(height: int, width: int) -> View:
        return View(0, 0, 200, 200, (least, least))

    with pytest.raises(ImageError, match="320x240 pixels are over max_pixels=76,799"):
        decode(data, max_pixels=76_799, view=view)
    with pytest.raises(ImageError, match="damaged JPEG file"):
        decode(data[: len(data) // 2], view=view)
