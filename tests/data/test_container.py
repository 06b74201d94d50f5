import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from vitkit.data import container
from vitkit.errors import ImageError


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF"])
def test_kind_is_told_by_content(form: str) -> None:
    data = encode(Image.new("RGB", (3, 2)), form)
    assert container.find_kind(data) == form
    assert container.starts_as_image(data[: container.HEAD])


@pytest.mark.parametrize("head", [b"", b"BM", b"BMW and other cars", b"PK\3\4", b"file,label\n"])
def test_other_files_do_not_start_as_an_image(head: bytes) -> None:
    assert not container.starts_as_image(head[: container.HEAD])


@pytest.mark.parametrize(
    ("head", "fragment"),
    [
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypisom", "a video"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"%PDF-1.7\n", "PDF"),
        (b"P6\n3 2\n255\n", "PPM"),
        (b"P5 3 2 255\n", "PGM"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "SVG"),
        (b"\n<!DOCTYPE html><p>404", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text"),
        (b"8BPS\0\1", "Photoshop"),
        (b"PK\3\4", "zip"),
        (b"RIFF\0\0\0\0WAVE", "52 49 46 46"),
        (b"", "empty"),
    ],
)
def test_foreign_bytes_are_named(head: bytes, fragment: str) -> None:
    with pytest.raises(ImageError, match=fragment) as caught:
        container.find_kind(head)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", ["H", "I"])
@pytest.mark.parametrize("value", range(10))
def test_orientation(order: str, form: str, value: int) -> None:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    kinds = {"H": 3, "I": 4}
    entry = struct.pack(order + "HHI" + form, 274, kinds[form], 1, value).ljust(12, b"\0")
    other = struct.pack(order + "HHII", 256, 4, 1, 7)
    exif = b"Exif\0\0" + mark + struct.pack(order + "IH", 8, 2) + other + entry + bytes(4)
    assert container.orientation(exif) == (value if 1 <= value <= 8 else 1)


def test_orientation_of_broken_exif() -> None:
    exif = Image.Exif()
    exif[274] = 6
    whole = exif.tobytes()
    assert container.orientation(whole) == 6
    assert {container.orientation(whole[:end]) for end in range(len(whole))} <= {1, 6}
    for at in range(len(whole)):
        container.orientation(whole[:at] + b"\xff" + whole[at + 1 :])


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (17, 300)])
def test_webp_size(size: tuple[int, int], mode: str, lossless: bool) -> None:
    image = Image.new(mode, size, (1, 2, 3, 4)[: len(mode)])
    assert container.webp_size(encode(image, "WebP", lossless=lossless)) == size


def test_gif_size_grows_to_the_frame() -> None:
    data = bytearray(encode(Image.new("P", (8, 4)), "GIF", comment=b"a comment before the frame"))
    assert container.gif_size(bytes(data)) == (8, 4)
    data[6:10] = struct.pack("<HH", 5, 9)
    assert container.gif_size(bytes(data)) == (8, 9)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_png_loses_all_but_its_still_image() -> None:
    plain = encode(Image.new("RGB", (3, 2), "red"), "PNG")
    after_header = 8 + 25
    extra = chunk(b"acTL", bytes(8)) + chunk(b"tEXt", b"a\0b") + chunk(b"eXIf", b"x")[:-1] + b"?"
    stuffed = plain[:after_header] + extra + plain[after_header:] + b"trailing bytes"
    assert container.strip_png(stuffed) == plain


def test_png_pixels_have_a_checksum() -> None:
    data = bytearray(encode(Image.new("RGB", (3, 2), "red"), "PNG"))
    data[data.index(b"IDAT") + 6] ^= 1
    with pytest.raises(ImageError, match="IDAT"):
        container.strip_png(bytes(data))


@pytest.mark.parametrize("big", [False, True])
def test_tiff_loses_all_but_its_first_page(big: bool) -> None:
    pages = [Image.fromarray(np.full((4, 5), level, np.uint8)) for level in (10, 200)]
    data = encode(
        pages[0], "TIFF", save_all=True, append_images=pages[1:], big_tiff=big, description="words"
    )
    with Image.open(BytesIO(container.strip_tiff(data, max_pixels=99))) as file:
        assert getattr(file, "n_frames", 1) == 1
        assert 270 not in file.tag_v2  # description
        assert np.array_equal(np.asarray(file), np.full((4, 5), 10))


def tiff(*fields: tuple[int, int, int, int]) -> bytes:
    """A little-endian TIFF that is a directory and nothing else."""
    entries = b"".join(struct.pack("<HHII", *field) for field in fields)
    return struct.pack("<4sIH", b"II*\0", 8, len(fields)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("fields", "fragment"),
    [
        ([(256, 4, 2, 8)], "tag 256"),  # two widths
        ([(273, 4, 1000, 8)], "tag 273"),  # values past the end of the file
        ([(273, 4, 4, 8), (279, 4, 4, 8), (325, 4, 4, 8), (320, 3, 9, 8)], "overlap"),
        ([(322, 4, 1, 60000), (323, 4, 1, 60000)], "3,600,000,000 pixels"),
    ],
)
def test_damaged_tiff(fields: list[tuple[int, int, int, int]], fragment: str) -> None:
    with pytest.raises(ImageError, match=fragment):
        container.strip_tiff(tiff(*fields), max_pixels=1_000_000)
