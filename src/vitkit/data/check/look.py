"""One look at every image: what it contains, how large it is, a thumbnail, and a few measures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from vitkit.data.audit import content_key
from vitkit.data.loader import visit
from vitkit.data.sources import Source
from vitkit.progress import Listener, silent

THUMB = 16  # pixels of a thumbnail's sides, whatever the image's proportions
MEASURED = 256  # pixels of the longer side, about, that the measures are taken at
FITTED = 256  # images of one size that are looked at together
MEASURES = ("side", "oblong", "dark", "bright", "contrast", "edges")


@dataclass(frozen=True, slots=True)
class Looks:
    """What was seen of n samples, a row for each; those of unreadable ones mean nothing."""

    keys: tuple[bytes | None, ...]  # what each contains; None: unreadable
    unreadable: tuple[tuple[str, str], ...]  # (name, reason)
    thumbs: NDArray[np.uint8]  # (n, THUMB, THUMB) grey
    shorter: NDArray[np.int64]  # (n,) pixels of the shorter side
    measures: dict[str, NDArray[np.float64]]  # (n,) by the names in MEASURES; NaN: unreadable


def look(source: Source, *, workers: int | None = None, listen: Listener = silent) -> Looks:
    """Decode every sample once and keep what the checks need, 350 bytes of each."""
    count = len(source.samples)
    keys: list[bytes | None] = [None] * count
    thumbs = np.zeros((count, THUMB, THUMB), np.uint8)
    shorter = np.ones(count, np.int64)
    values = np.full((count, len(MEASURES)), np.nan)

    def see(index: int, image: NDArray[np.uint8]) -> None:
        keys[index] = content_key(image)
        shorter[index] = min(image.shape[:2])
        grey = Image.fromarray(image).convert("L")
        thumbs[index] = thumbnail(grey)
        values[index] = measure(grey)

    unreadable = visit(source, see, workers=workers, listen=listen)
    measures = dict(zip(MEASURES, values.T.copy(), strict=True))
    return Looks(tuple(keys), unreadable, thumbs, shorter, measures)


def thumbnail(grey: Image.Image) -> NDArray[np.uint8]:
    """The mean of each of THUMB x THUMB equal parts of an image of mode L."""
    return np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX, reducing_gap=3.0))


def measure(grey: Image.Image) -> tuple[float, ...]:
    """The MEASURES of an image of mode L, luma in 0 to 255.

    - side: pixels, the geometric mean of height and width;
    - oblong: longer over shorter side;
    - dark: what 98 % of the pixels are no brighter than; bright: what 98 % are no darker than;
    - contrast: standard deviation of luma;
    - edges: what 99 % of the pixels' absolute Laplacian is at most, low where nothing is sharp; NaN
      of an image under 3 pixels wide or high.

    The last four are those of the image at a size of about MEASURED, where a model would see it.
    """
    width, height = grey.size
    factor = max(round(max(grey.size) / MEASURED), 1)
    if factor > 1:
        grey = grey.reduce((min(factor, width), min(factor, height)))
    luma = np.asarray(grey, np.float32)
    bright, dark = np.percentile(luma, (2, 98))
    return (
        float(np.sqrt(height * width)),
        max(height, width) / min(height, width),
        float(dark),
        float(bright),
        float(luma.std(dtype=np.float64)),
        _edges(luma),
    )


def _edges(luma: NDArray[np.float32]) -> float:
    if min(luma.shape) < 3:
        return float("nan")
    middle = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float(np.percentile(np.abs(around - 4 * middle), 99))


def look_at_fitted(
    images: NDArray[np.uint8],
    keys: Sequence[bytes | None],
    unreadable: Sequence[tuple[str, str]] = (),
) -> Looks:
    """The same of images that are decoded and brought to a model's size, (n, C, h, w).

    Their own sizes are not known any more: those measures are NaN.
    """
    count = len(images)
    thumbs = np.zeros((count, THUMB, THUMB), np.uint8)
    values = np.full((count, len(MEASURES)), np.nan)
    for at in range(0, count, FITTED):
        part = slice(at, at + FITTED)
        luma = _luma(images[part])
        pooled = F.adaptive_avg_pool2d(torch.from_numpy(luma)[:, None], THUMB)[:, 0]
        thumbs[part] = pooled.round().numpy().astype(np.uint8)
        flat = luma.reshape(len(luma), -1)
        values[part, 2], values[part, 3] = np.percentile(flat, (98, 2), axis=1)
        values[part, 4] = flat.std(axis=1, dtype=np.float64)
        values[part, 5] = [_edges(one) for one in luma]
    values[[key is None for key in keys]] = np.nan
    measures = dict(zip(MEASURES, values.T.copy(), strict=True))
    shorter = np.full(count, min(images.shape[2:]))
    return Looks(tuple(keys), tuple(unreadable), thumbs, shorter, measures)


def _luma(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey as Pillow has it: (n, C, h, w) -> (n, h, w), in 0 to 255."""
    if images.shape[1] == 1:
        return images[:, 0].astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    luma: NDArray[np.float32] = np.einsum("nchw,c->nhw", images, weights, dtype=np.float32)
    return luma
