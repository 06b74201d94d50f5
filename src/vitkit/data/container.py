"""What the bytes of an image file say before a pixel is decoded: kind, size, orientation.

Pillow reads metadata eagerly and complains about it with Python warnings, which a thread cannot
silence for itself alone. PNG and TIFF files are therefore handed to it stripped to their pixels,
and what else is needed is read here.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final, Literal

from vitkit.errors import ImageError

HEAD: Final = 16  # bytes that tell an image from anything else

Kind = Literal["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF"]

_KINDS: Final[tuple[tuple[bytes, Kind], ...]] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
)

_FOREIGN: Final = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"P1", "PBM"),
    (b"P2", "PGM"),
    (b"P3", "PPM"),
    (b"P4", "PBM"),
    (b"P5", "PGM"),
    (b"P6", "PPM"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "a Windows icon"),
    (b"v/1\1", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1f\x8b", "gzip"),
    (b"\x93NUMPY", "a NumPy array"),
)

_BRANDS: Final = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
}


def find_kind(data: bytes) -> Kind:
    """Name the format by content alone; a file's extension is never asked.

    Raises:
        ImageError: none of the six formats; the message says what it looks like instead.
    """
    for magic, kind in _KINDS:
        if data.startswith(magic):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if not data:
        raise ImageError("the file is empty; replace or remove it")
    raise ImageError(
        f"{_describe(data)}; only JPEG, PNG, WebP, BMP, GIF and TIFF are opened: "
        "convert it to JPEG or PNG"
    )


def starts_as_image(head: bytes) -> bool:
    """Whether a file whose first `HEAD` bytes are these is in one of the six formats."""
    try:
        kind = find_kind(head)
    except ImageError:
        return False
    return kind != "BMP" or head[6:10] == bytes(4)  # a text may begin with BM, but has no zeros


def _describe(data: bytes) -> str:
    """Say what bytes that are none of our formats look like."""
    if data[4:8] == b"ftyp":
        return f"it looks like {_BRANDS.get(data[8:12], 'a video')}"
    for magic, name in _FOREIGN:
        if data.startswith(magic):
            return f"it looks like {name}"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "it looks like SVG"
    if head.startswith((b"<!doctype html", b"<html")):
        return "it looks like an HTML page"
    if head.isascii() and head.decode("ascii").replace("\n", "").replace("\r", "").isprintable():
        return "it looks like text"
    return f"it is no image format we know (first bytes {data[:4].hex(' ')})"


def orientation(exif: bytes) -> int:
    """EXIF orientation, 1 to 8; 1, as stored, where it is absent or broken (CIPA DC-008, 4.6.5)."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4], "<")
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, form = struct.unpack_from(order + "HH", tiff, at)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + _INTEGERS[form], tiff, at + 8)
                return int(value) if 1 <= value <= 8 else 1
    except (struct.error, KeyError):
        return 1
    return 1


def gif_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas, grown to hold the first frame as Pillow grows it.

    Raises:
        ImageError: no frame.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    while data[at : at + 1] not in (b",", b";", b""):
        if data[at] != ord("!"):
            at += 1  # stray bytes between blocks are passed over
            continue
        at += 2
        while at < len(data) and data[at]:  # an extension is a chain of sized blocks
            at += 1 + data[at]
        at += 1
    if data[at : at + 1] != b",":
        raise ImageError("a GIF file without a frame; replace or remove it")
    left, top, frame_width, frame_height = struct.unpack_from("<4H", data, at + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas (RFC 9649, 2.5 to 2.7).

    Raises:
        ImageError: no image chunk.
        struct.error: the file ends inside it.
    """
    match data[12:16]:
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            sides = data[24:27], data[27:30]
            width, height = (int.from_bytes(side, "little") + 1 for side in sides)
            return width, height
    raise ImageError("a WebP file without an image; replace or remove it")


_PNG_KEPT: Final = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"iCCP", b"eXIf"}
_PNG_EXIF: Final = b"Raw profile type exif\0"  # ImageMagick's way from before eXIf existed


def strip_png(data: bytes) -> bytes:
    """The still image of a PNG: without animation, comments and chunks whose checksum is wrong.

    Raises:
        ImageError: a chunk that holds pixels is damaged. (Pillow does not check these itself.)
    """
    parts = [data[:8]]
    at = 8
    while at + 8 <= len(data) and parts[-1][4:8] != b"IEND":
        end = at + 12 + int.from_bytes(data[at : at + 4])
        name = data[at + 4 : at + 8]
        if name in _PNG_KEPT or data.startswith(_PNG_EXIF, at + 8):
            check = zlib.crc32(memoryview(data)[at + 4 : end - 4]).to_bytes(4)
            if check == data[end - 4 : end]:
                parts.append(data[at:end])
            elif name[:1].isupper():  # critical, in PNG's spelling
                problem = "truncated" if end > len(data) else "damaged"
                raise ImageError(f"{problem} PNG file (chunk {name!r}); replace or remove it")
        at = end
    if parts[1:2] and parts[1][4:8] != b"IHDR" or not parts[1:]:
        raise ImageError("damaged PNG file (no header); replace or remove it")
    return b"".join(parts)


_ORIENTATION, _TILE_WIDTH, _TILE_LENGTH, _JPEG_TABLES, _ICC = 274, 322, 323, 347, 34675
_INTEGERS: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}  # TIFF field type -> struct format
_SIZES: Final = {1: 1, 3: 2, 4: 4, 5: 8, 7: 1, 16: 8}  # TIFF field type -> bytes per value
# The tags that say how pixels are stored (TIFF 6.0 and its technical note 2), by number of values.
_ONE_VALUE: Final = {256, 257, 259, 262, 266, _ORIENTATION, 277, 278, 284, 292, 293, 317} | {
    *(_TILE_WIDTH, _TILE_LENGTH, 512, 513, 514, 515, 531)
}
_MANY_VALUES: Final = {258, 273, 279, 320, 324, 325, 338, 339, 518, 519, 520, 521, 529, 530, 532}
_BLOBS: Final = {_JPEG_TABLES, _ICC}
_MAX_TAG_BYTES: Final = 1_000_000  # room for the offsets of 250,000 strips


@dataclass(frozen=True, slots=True)
class _Layout:
    """struct formats of a TIFF directory: its length, an entry, an offset into the file."""

    count: str
    entry: str
    offset: str


_LAYOUTS: Final = {
    b"II*\0": _Layout("<H", "<HHI4s", "<I"),
    b"MM\0*": _Layout(">H", ">HHI4s", ">I"),
    b"II+\0": _Layout("<Q", "<HHQ8s", "<Q"),
    b"MM\0+": _Layout(">Q", ">HHQ8s", ">Q"),
}


def strip_tiff(data: bytes, *, max_pixels: int) -> bytes:
    """The first page of a TIFF or BigTIFF, with only the tags that make pixels and its profile.

    The directory is rewritten in place: one put behind the file would serve as pixels where those
    are cut short.

    Raises:
        ImageError: a tag that makes pixels is out of bounds, or a tile holds over `max_pixels`.
        struct.error: the file ends inside its directory.
    """
    layout = _LAYOUTS[data[:4]]
    word = struct.calcsize(layout.offset)  # bytes; the header has two of them
    (start,) = struct.unpack_from(layout.offset, data, word)
    (count,) = struct.unpack_from(layout.count, data, start)
    first, step = start + struct.calcsize(layout.count), struct.calcsize(layout.entry)
    fields = (data[at : at + step] for at in range(first, first + step * count, step))
    kept = [field for field in fields if _makes_pixels(field, layout, len(data))]
    if sum(_size(field, layout) for field in kept) > len(data):
        raise ImageError("damaged TIFF file (tags overlap); replace or remove it")
    _check_tile(kept, layout, max_pixels)
    directory = struct.pack(layout.count, len(kept)) + b"".join(kept) + bytes(word)
    return data[:start] + directory + data[start + len(directory) :]


def _size(field: bytes, layout: _Layout) -> int:
    """Bytes of a directory entry's values; 0 for a type that pixels have no use for."""
    _, form, length, _ = struct.unpack(layout.entry, field)
    return int(length) * _SIZES.get(form, 0)


def _makes_pixels(field: bytes, layout: _Layout, file_size: int) -> bool:
    """Whether to keep a directory entry; a damaged one is an error unless pixels do without it."""
    tag, form, length, value = struct.unpack(layout.entry, field)
    if tag not in _ONE_VALUE | _MANY_VALUES | _BLOBS:
        return False
    size = _size(field, layout)
    end = size if size <= len(value) else size + struct.unpack(layout.offset, value)[0]
    good: bool = 0 < size <= _MAX_TAG_BYTES * (4 if tag == _ICC else 1) and end <= file_size
    if tag in _ONE_VALUE:
        good = good and length == 1 and form in _INTEGERS
    elif tag in _BLOBS:
        good = good and form in (1, 7)
    if not good and tag not in (_ICC, _ORIENTATION):
        raise ImageError(f"damaged TIFF file (tag {tag}); replace or remove it")
    return good


def _check_tile(fields: list[bytes], layout: _Layout, max_pixels: int) -> None:
    """A tile is decoded whole, however little of it the image uses."""
    area = 1
    for tag, form, _, value in (struct.unpack(layout.entry, field) for field in fields):
        if tag in (_TILE_WIDTH, _TILE_LENGTH):
            area *= struct.unpack_from(layout.offset[0] + _INTEGERS[form], value)[0]
    if area > max_pixels:
        raise ImageError(f"a TIFF tile of {area:,} pixels is over max_pixels={max_pixels:,}")
