"""Files of real cameras, scanners, editors and attackers."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitkit.errors import ImageError

Pixels = NDArray[np.uint8]


def grey(values: Any) -> Pixels:
    """One channel three times."""
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def flat(height: int, width: int, *colour: int) -> Callable[[Path], Pixels]:
    return lambda folder: np.full((height, width, 3), colour, np.uint8)


def hopper(folder: Path) -> Pixels:
    """The reference picture, read from its BMP by hand: rows from the bottom up, in BGR."""
    data = (folder / "hopper.bmp").read_bytes()
    (offset,) = struct.unpack_from("<I", data, 10)
    return np.frombuffer(data, np.uint8, offset=offset).reshape(128, 128, 3)[::-1, :, ::-1]


def raw_16(name: str, offset: int, side: int) -> Callable[[Path], Pixels]:
    """An uncompressed little-endian TIFF, from 16 bits to 8 in exact arithmetic."""

    def read(folder: Path) -> Pixels:
        data = (folder / name).read_bytes()
        values = np.frombuffer(data, "<u2", count=side * side, offset=offset)
        return grey(np.rint(values.reshape(side, side) / 257))

    return read


def landscape(number: int, turns: int) -> Callable[[Path], Pixels]:
    """Stored sideways or upside down, turned clockwise as EXIF's table for `number` says."""

    def read(folder: Path) -> Pixels:
        with Image.open(folder / f"Landscape_{number}.jpg") as file:
            return np.rot90(np.asarray(file), -turns)

    return read


def half_turned(folder: Path) -> Pixels:
    with Image.open(folder / "exif_imagemagick_orientation.png") as file:
        return np.asarray(file)[::-1, ::-1]


def stripes(folder: Path) -> Pixels:
    return grey(np.tile(np.array([0, 255], np.uint8), (64, 64)))


def red_corner(folder: Path) -> Pixels:
    image = np.full((100, 100, 3), 255, np.uint8)
    image[:51, :51] = 255, 0, 0
    return image


def spots(height: int, width: int, **points: tuple[int, int, int]) -> dict[Any, Any]:
    """Size and single pixels, read off the picture by eye: `r10c20` is row 10, column 20."""
    places = {tuple(map(int, name[1:].split("c"))): rgb for name, rgb in points.items()}
    return {"size": (height, width), **places}


PLANE = spots(531, 800, r5c5=(188, 198, 207), r500c30=(180, 157, 105), r250c400=(74, 92, 106))

# What each file gives: a fragment of the error, pixels with the mean difference allowed, or spots.
EXPECTED: dict[str, Any] = {
    "00r1_graya_la.jp2": "looks like JPEG 2000",
    "12in16bit.tif": (raw_16("12in16bit.tif", 8, 100), 0),
    "16_bit_binary.pgm": "looks like PGM",
    "16_bit_noise.tif": (raw_16("16_bit_noise.tif", 8, 32), 0),
    "16bit.MM.deflate.tif": (raw_16("16bit.cropped.tif", 110, 64), 0),
    "16bit.cropped.tif": (raw_16("16bit.cropped.tif", 110, 64), 0),
    "Landscape_1.jpg": (landscape(1, 0), 0),
    "Landscape_3.jpg": (landscape(3, 2), 0),
    "Landscape_6.jpg": (landscape(6, 1), 0),
    "Landscape_8.jpg": (landscape(8, 3), 0),
    "apng__blend_op_over.png": (flat(64, 128, 255, 0, 0), 0),
    "apng__mode_16bit.png": (flat(64, 128, 255, 0, 0), 0),
    "apng__mode_grayscale.png": (stripes, 0),
    "apng__mode_grayscale_alpha.png": (stripes, 0),
    "apng__mode_palette.png": (flat(64, 128, 255, 0, 0), 0),
    "apng__mode_palette_1bit_alpha.png": (flat(64, 128, 0, 0, 0), 0),
    "apng__mode_palette_alpha.png": (flat(64, 128, 255, 0, 0), 0),
    "avif__exif.avif": "looks like AVIF",
    "bmp__b__badpalettesize.bmp": "damaged BMP file .*palette size",
    "broken.png": "damaged PNG file .no header",
    "broken_data_stream.png": "damaged PNG file .*IDAT",
    "broken_exif_dpi.jpg": (flat(100, 100, 0, 128, 1), 0),
    "crash-0da013a13571cc8eb457a39fee8db18f8a3c7127.tif": "damaged TIFF .*line 27",
    "decompression_bomb.gif": "65535x66601 pixels are over max_pixels=50,000,000",
    "decompression_bomb_extents.gif": (flat(100, 100, 255, 0, 0), 0),
    "different_transparency.gif": (red_corner, 0),
    "exif-dpi-zerodivision.jpg": spots(
        200, 200, r0c0=(182, 182, 182), r40c40=(236, 236, 236), r199c199=(0, 0, 0)
    ),
    "exif_gps_typeerror.jpg": PLANE,
    "exif_imagemagick_orientation.png": (half_turned, 0),
    "exif_typeerror.jpg": PLANE,
    "hopper.bmp": (hopper, 0),
    "hopper.gif": (hopper, 5),
    "hopper.jpg": (hopper, 3),
    "hopper.png": (hopper, 0),
    "hopper.tif": (hopper, 0),
    "hopper.webp": (hopper, 8),
    "iss634.webp": spots(245, 245, r5c5=(17, 82, 84), r122c122=(57, 100, 106)),
    "pil_sample_cmyk.jpg": spots(100, 100, r2c2=(255, 13, 25), r90c5=(1, 4, 5)),  # red, black
    "truncated_image.png": "truncated PNG file",
    "truncated_jpeg.jpg": "damaged JPEG file .*truncated",
}

DECODE_ALL = """
import json, resource, sys, time, numpy as np
from pathlib import Path
from vitkit.data.image import decode, read_file
from vitkit.errors import ImageError
source, target = map(Path, sys.argv[1:])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
outcome = {}
for path in sorted(source.iterdir()):
    start = time.perf_counter()
    try:
        image, error = decode(read_file(path)), None
    except ImageError as caught:
        image, error = None, str(caught)
    outcome[path.name] = time.perf_counter() - start, error
    if image is not None:
        np.save(target / path.name, image)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"files": outcome, "kilobytes": peak, "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def awkward(unpacked: Callable[[str], Path]) -> Path:
    folder = unpacked("awkward-images.zip")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return files[0].parent


@pytest.fixture(scope="module")
def outcome(awkward: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Every file decoded in one process that has warnings as errors and nothing to say."""
    target = tmp_path_factory.mktemp("decoded")
    command = [sys.executable, "-W", "error", "-c", DECODE_ALL, str(awkward), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    yield {"folder": target, **json.loads(done.stdout)}


@pytest.mark.parametrize("name", EXPECTED)
def test_awkward_file(name: str, awkward: Path, outcome: dict[str, Any]) -> None:
    expected = EXPECTED[name]
    seconds, error = outcome["files"][name]
    assert seconds < 2
    if isinstance(expected, str):
        assert error is not None
        with pytest.raises(ImageError, match=f"(?i){expected}"):
            raise ImageError(error)
        return
    assert error is None
    image = np.load(outcome["folder"] / f"{name}.npy")
    assert image.dtype == np.uint8
    if isinstance(expected, dict):
        assert image.shape == (*expected["size"], 3)
        for place in expected.keys() - {"size"}:
            np.testing.assert_allclose(image[place], expected[place], atol=2)  # JPEG decoders vary
    else:
        reference, tolerance = expected[0](awkward), expected[1]
        assert image.shape == reference.shape
        assert np.abs(image.astype(int) - reference).mean() <= tolerance


def test_every_awkward_file_is_expected(outcome: dict[str, Any]) -> None:
    assert outcome["files"].keys() == EXPECTED.keys()
    assert outcome["kilobytes"] < 1_000_000
    assert not outcome["torch"]


def test_orientations_show_one_picture(outcome: dict[str, Any]) -> None:
    names = [f"Landscape_{number}.jpg.npy" for number in (1, 3, 6, 8)]
    upright, *others = (np.load(outcome["folder"] / name).astype(int) for name in names)
    for other in others:
        assert np.abs(other - upright).mean() < 5  # JPEG's loss, and a digit in the middle
        assert np.abs(other[::-1] - upright).mean() > 30
