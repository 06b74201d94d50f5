"""Bytes to an RGB array: the one place where image files are decoded."""

import os
import stat
import struct
import tempfile
import threading
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vitkit.data import container
from vitkit.data.view import Viewer
from vitkit.errors import ImageError

MAX_PIXELS: Final = 50_000_000
MAX_BYTES: Final = 64_000_000


def read_file(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file; its size is looked up before anything is read.

    Raises:
        ImageError: absent, unreadable, not a regular file, or over `max_bytes`.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is a folder or device, not a file; give a file")
        _check_bytes(status.st_size, max_bytes)
        with open(path, "rb") as file:
            return file.read(status.st_size + 1)  # one that grows meanwhile fails in `decode`
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read ({reason}); check its name and rights") from error


def decode(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    view: Viewer | None = None,
) -> NDArray[np.uint8]:
    """An encoded image to read-only RGB in sRGB, (H, W, 3), C-contiguous, seen upright.

    With `view`, which is told height and width, only the part that it chooses: of a JPEG at 1/2,
    1/4 or 1/8 where the view lets it, which saves up to half the time.

    JPEG, PNG, WebP, BMP, GIF and TIFF are opened, by content. EXIF orientation is applied; of an
    animation or a file of many pages comes the first picture; transparency lies on white. A colour
    profile is honoured, and passed over when it is broken; gamma and chromaticity chunks of PNG
    are passed over. 16-bit colour keeps the high byte. Single channels deeper than 8 bits:

    - unsigned 12 or 16 bits: the whole range of the type becomes 0 to 255, rounded;
    - 32-bit integers and floats have no agreed white. It is the first of 1 (floats only), 255 and
      65535 that the maximum is at most half above; black is 0, and what is outside is clipped.
      Values past that, or below zero by over a quarter of the maximum, are stretched from
      minimum to maximum. NaN counts as the minimum.

    Safe to call from several threads. While any call runs,
    `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is off for the whole process.

    Raises:
        ImageError: another format, more than `max_pixels` (told by the header, before a pixel is
            decoded) or `max_bytes`, or a file that is damaged or cut short.
    """
    _check_bytes(len(data), max_bytes)
    kind = container.find_kind(data)
    try:
        with _whole_images_only:
            file = _open(kind, data, max_pixels)
            return np.asarray(_to_rgb(file) if view is None else _part(file, view))
    except ImageError:
        raise
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        early = isinstance(error, (struct.error, IndexError, EOFError))
        reason = "ends too early" if early else " ".join(str(error).split()) or repr(error)
        raise ImageError(f"damaged {kind} file ({reason}); replace or remove it") from error


def from_pil(image: Image.Image) -> NDArray[np.uint8]:
    """A PIL image to RGB by the rules of `decode`: (H, W, 3), read-only.

    Raises:
        ImageError: it was opened without being read, and its file is damaged or cut short.
    """
    try:
        with _whole_images_only:
            return np.asarray(_to_rgb(image))
    except ImageError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or repr(error)
        raise ImageError(f"cannot be decoded ({reason}); replace it") from error


def _check_bytes(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ImageError(
            f"{size:,} bytes are over max_bytes={max_bytes:,}; shrink the image or raise max_bytes"
        )


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    limits = {"max_pixels": max_pixels, "PIL.Image.MAX_IMAGE_PIXELS": Image.MAX_IMAGE_PIXELS}
    for name, limit in limits.items():
        if limit is not None and width * height > limit:
            raise ImageError(
                f"{width}x{height} pixels are over {name}={limit:,}; shrink the image or raise it"
            )


class _WholeImagesOnly:
    """While entered, by however many threads, Pillow fills nothing with grey that a file lacks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0
        self._saved = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._entered:
                self._saved = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
            self._entered += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._entered -= 1
            if not self._entered:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._saved


_whole_images_only = _WholeImagesOnly()


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Skip it: Pillow would parse all of EXIF for a resolution, and warn of what it finds."""


_READERS: Final[dict[container.Kind, type[ImageFile.ImageFile]]] = {
    "JPEG": _Jpeg,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "TIFF": TiffImageFile,
}
_MAX_SCANS: Final = 100  # of a JPEG; each is a pass over all pixels, and 10 are usual


def _open(kind: container.Kind, data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header. Not `Image.open`, which warns of sizes that we judge ourselves."""
    match kind:
        case "PNG":
            data = container.strip_png(data)
        case "TIFF":
            data = container.strip_tiff(data, max_pixels=max_pixels)
        case "GIF":
            _check_pixels(container.gif_size(data), max_pixels)
        case "WebP":  # its reader allocates the canvas at once
            _check_pixels(container.webp_size(data), max_pixels)
        case "JPEG" if (scans := _count_scans(data)) > _MAX_SCANS:
            raise ImageError(f"a JPEG file of {scans} scans; save it again with fewer")
    image = _READERS[kind](BytesIO(data))
    _check_pixels(image.size, max_pixels)
    if isinstance(image, PngImageFile) and "transparency" in image.info:
        _scale_key(image, depth=data[24])
    return image


def _count_scans(data: bytes) -> int:
    """Start-of-scan markers, in a quarter of the time that `data.count` takes."""
    values = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((values[:-1] == 0xFF) & (values[1:] == 0xDA)))


def _scale_key(image: PngImageFile, *, depth: int) -> None:
    """Bring PNG's transparent colour to 8 bits as Pillow brings the pixels, but not the colour."""
    key = image.info["transparency"]
    if image.mode == "L":
        image.info["transparency"] = key * {2: 85, 4: 17}.get(depth, 1)
    elif image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _to_rgb(file: Image.Image) -> Image.Image:
    """Decode the first picture: upright, sRGB, on white."""
    image = file
    frame = file.tile[0].extents if isinstance(file, GifImageFile) and file.tile else None
    _load(file)
    if file.mode in ("I", "F") or file.mode.startswith("I;16"):
        image = _to_grey(file)
    if image.has_transparency_data:
        image = _over_white(image)
    elif frame and frame != (0, 0, *file.size):
        canvas = Image.new("RGB", file.size, "white")  # browsers too leave out the background
        canvas.paste(image.crop(frame).convert("RGB"), frame)
        image = canvas
    if profile := file.info.get("icc_profile"):
        image = _to_srgb(image, profile)
    if image.mode != "RGB":
        image = image.convert("RGB")
    turn = _TURNS.get(container.orientation(_exif(file)))
    return image if turn is None else image.transpose(turn)


def _part(file: Image.Image, view: Viewer) -> Image.Image:
    """Decode what `view` chooses: as `_to_rgb`, a JPEG perhaps smaller."""
    if not isinstance(file, JpegImageFile):
        image = _to_rgb(file)
        return image.crop(view(image.height, image.width).box())
    sides = (file.height, file.width)
    turned = container.orientation(_exif(file)) >= 5
    chosen = view(*(reversed(sides) if turned else sides))
    divisor = chosen.divisor
    if divisor > 1:  # Pillow takes the power of two at which neither side is smaller than asked
        file.draft(None, (file.width // divisor, file.height // divisor))
    return _to_rgb(file).crop(chosen.box(divisor))


def _exif(file: Image.Image) -> bytes:
    """The EXIF block, which Pillow leaves unread. (It turns a TIFF by its own tag.)"""
    if text := file.info.get("Raw profile type exif"):
        try:
            return bytes.fromhex("".join(str(text).split("\n")[3:]))
        except ValueError:
            return b""
    exif = file.info.get("exif", b"")
    return exif if isinstance(exif, bytes) else b""


def _load(file: Image.Image) -> None:
    """Decode pixels, and fail where Pillow would not."""
    if not isinstance(file, TiffImageFile) or not file.tile:  # or loaded before
        file.load()
    elif file.info["compression"] in ("tiff_ccitt", "group3", "group4", "tiff_raw_16"):
        _load_fax(file)
    else:
        _check_tiff(file)
        file.load()


def _check_tiff(file: TiffImageFile) -> None:
    """Refuse what Pillow would decode to wrong pixels without a word."""
    raw = file.info["compression"] == "raw"
    if raw and file.mode == "YCbCr" and file.tag_v2.get(530, (2, 2)) != (1, 1):
        raise ImageError("a TIFF file of subsampled raw YCbCr; convert it to JPEG or PNG")
    layers = len(file.getbands()) if raw and file.tag_v2.get(284) == 2 else 1
    boxes = [tile.extents for tile in file.tile]
    covered = sum((box[2] - box[0]) * (box[3] - box[1]) for box in boxes if box)
    if covered < file.width * file.height * layers:
        raise ImageError("a TIFF file that lacks strips or tiles; replace or remove it")


_fax_lock = threading.Lock()


def _load_fax(file: TiffImageFile) -> None:
    """Decode a fax page, and fail where it is damaged.

    libtiff leaves the page white from the damage on, calls that success and only tells the
    process's standard error, which is therefore listened to meanwhile.
    """
    with _fax_lock, tempfile.TemporaryFile() as heard:
        stderr = os.dup(2)
        os.dup2(heard.fileno(), 2)
        try:
            file.load()
        finally:
            os.dup2(stderr, 2)
            heard.seek(0)
            lines = heard.readlines()
            os.write(stderr, b"".join(line for line in lines if not line.startswith(b"Fax")))
            os.close(stderr)
    for line in lines:
        if line.startswith(b"Fax"):
            raise ImageError(f"damaged TIFF file ({line.decode().strip()}); replace or remove it")


_WHITES: Final = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}


def _to_grey(file: Image.Image) -> Image.Image:
    """A single channel deeper than 8 bits to mode L, by the rules in `decode`."""
    tags = file.tag_v2 if isinstance(file, TiffImageFile) else {}
    values = np.asarray(file)
    if file.mode.startswith("I;16"):
        white = (1 << (tags.get(258, (16,))[0])) - 1
        table = (np.arange(65536) * 255 + white // 2) // white
        grey = table.clip(max=255).astype(np.uint8)[values]
        if isinstance(key := file.info.get("transparency"), int):
            grey[values == key] = 255
    else:
        grey = _fit(values, _WHITES[file.mode])
    white_is_zero = tags.get(262) == 0
    return Image.fromarray(255 - grey if white_is_zero else grey)


def _fit(values: NDArray[np.generic], whites: tuple[float, ...]) -> NDArray[np.uint8]:
    """Numbers without an agreed white to 0 to 255."""
    x = values.astype(np.float32)
    finite = np.isfinite(x)
    low = float(np.min(x, where=finite, initial=np.inf))
    high = float(np.max(x, where=finite, initial=-np.inf))
    np.nan_to_num(x, copy=False, nan=low, posinf=high, neginf=low)
    signed = low < -high / 4
    white = None if signed else next((white for white in whites if high <= 1.5 * white), None)
    black, scale = (0.0, 255 / white) if white else (low, 255 / max(high - low, 1.0))
    x *= scale  # before the shift: the range itself may be past float32
    x -= black * scale
    return np.rint(x, out=x).clip(0, 255, out=x).astype(np.uint8)


def _over_white(image: Image.Image) -> Image.Image:
    """Composite what is transparent over white, in the image's own colour space."""
    image = image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
    canvas = Image.new(image.mode[:-1], image.size, "white")
    canvas.paste(image.convert(canvas.mode), mask=image.getchannel("A"))
    return canvas


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Apply a colour profile, unless it is sRGB already, broken, or for other channels."""
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    transform = _transform(profile, image.mode)
    return image if transform is None else transform.apply(image)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Building one takes milliseconds, and the images of a folder tend to share a profile."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(source):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # a profile is hostile bytes as well
        return None
