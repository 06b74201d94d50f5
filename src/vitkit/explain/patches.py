"""The patches of an image as the model cuts them, and the filters that project them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.picture import INK, LINE, MARGIN, PAPER, Pixels, png, tile
from vitkit.explain.sites import Grid
from vitkit.layers.patch import HybridEmbed, PatchEmbed
from vitkit.models.backbone import Backbone
from vitkit.models.cct import CCT
from vitkit.models.cnn import CNN
from vitkit.models.hybrid import Hybrid

FILTER_SIDE = 96  # pixels, about, of a filter in a picture


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """An image cut into patches, row by row."""

    values: NDArray[Any]  # (h * w, C, p, p); zeros where the image was padded
    grid: Grid  # patches down and across
    size: Grid  # pixels of the image, height and width, without padding

    def join(self) -> NDArray[Any]:
        """The image they were cut from, without padding: -> (C, H, W)."""
        whole = tile(np.moveaxis(self._on_grid(), 2, -1), gap=0, fill=0)  # (H', W', C)
        return np.ascontiguousarray(np.moveaxis(whole, -1, 0)[:, : self.size[0], : self.size[1]])

    def picture(self, *, gap: int = 2) -> Pixels:
        """Patches of uint8 pixels, grey or RGB, with `gap` white pixels between: -> (H', W', 3).

        Raises:
            ConfigError: values that are no such pixels.
        """
        if self.values.dtype != np.uint8 or self.values.shape[1] not in (1, 3):
            raise ConfigError(
                f"patches of {self.values.shape[1]} channels of {self.values.dtype} are no "
                "picture; cut an image of 1 or 3 channels of uint8"
            )
        pixels = tile(np.moveaxis(self._on_grid(), 2, -1), gap=gap, fill=255)
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()

    def _on_grid(self) -> NDArray[Any]:
        return self.values.reshape(*self.grid, *self.values.shape[1:])  # (h, w, C, p, p)


def cut(image: NDArray[Any], patch_size: int) -> Patches:
    """Cut an image into patches of `patch_size` pixels a side: (C, H, W) -> (h * w, C, p, p).

    Sides that are no multiple of the patch are padded with zeros below and to the right, as in
    `layers.patch.PatchEmbed`. Zeros in normalised pixels are the mean colour, in uint8 black.

    Raises:
        ConfigError: an array of another form, or a patch size below 1.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ConfigError(f"an image of shape {image.shape} is not (C, H, W), all at least 1")
    if patch_size < 1:
        raise ConfigError(f"patch_size={patch_size} is less than 1; try 16")
    channels, height, width = image.shape
    padded = np.pad(image, ((0, 0), (0, -height % patch_size), (0, -width % patch_size)))
    h, w = padded.shape[1] // patch_size, padded.shape[2] // patch_size
    cells = padded.reshape(channels, h, patch_size, w, patch_size).transpose(1, 3, 0, 2, 4)
    return Patches(cells.reshape(h * w, *cells.shape[2:]), (h, w), (height, width))


def patch_embed(model: Backbone) -> PatchEmbed:
    """The projection of pixels that a model starts with.

    Raises:
        ConfigError: the model starts with something else; the message says with what.
    """
    embed = getattr(model, "patch_embed", None)
    if isinstance(embed, PatchEmbed) and not isinstance(embed, HybridEmbed):
        return embed
    if isinstance(model, Hybrid):
        has = "cuts its patches from the map of a ResNet, not from pixels"
    elif isinstance(embed, HybridEmbed):
        has = "has a stem of 3x3 convolutions before its patches"
    elif isinstance(model, CCT):
        has = "makes tokens by convolutions that overlap"
    elif isinstance(model, CNN):
        has = "has no patches: it starts with a convolution that slides over all pixels"
    else:
        has = "projects no patches of pixels"
    raise ConfigError(f"{type(model).__name__} {has}; choose a ViT, DeiT or Swin without a stem")


def projection_gap(model: Backbone, x: Tensor) -> float:
    """How far the embedding of an image, (C, H, W), is from its patches times the weights.

    Patches from `cut` are multiplied by the projection's weight in float64, bias and, in Swin, norm
    follow (arXiv:2010.11929, eq. 1; arXiv:2103.14030, section 3.1). The result is the largest
    difference to what the model's own layer gives: rounding, about 1e-6 in float32, unless what is
    cut is not what the model sees.

    Raises:
        ConfigError: the model projects no patches of pixels, or `x` is not its input.
    """
    embed = patch_embed(model)
    weight, bias = embed.proj.weight, embed.proj.bias
    assert bias is not None
    if x.ndim != 3 or x.shape[0] != weight.shape[1]:
        raise ConfigError(
            f"an input of shape {tuple(x.shape)} is not one image of {weight.shape[1]} channels; "
            "give (C, H, W)"
        )
    patches = cut(x.detach().double().cpu().numpy(), embed.patch_size)
    vectors = torch.from_numpy(patches.values).flatten(1)  # (h * w, C p p)
    with torch.no_grad():
        expected = vectors @ weight.double().cpu().flatten(1).T + bias.double().cpu()
        expected = embed.norm(expected.to(weight)).double().cpu()
        seen = embed(x[None].to(weight)).double().cpu()[0].flatten(0, 1)  # (h * w, D)
    return float((seen - expected).abs().max())


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """Principal components of the filters that project patches, the strongest first."""

    filters: NDArray[np.float64]  # (n, C, p, p), each of length 1
    shares: NDArray[np.float64]  # (n,), of the variance of all filters

    @property
    def images(self) -> Pixels:
        """Each as a small picture in which 0 is grey: (n, p, p, 3).

        Raises:
            ConfigError: filters of other than 1 or 3 channels.
        """
        count, channels = self.filters.shape[:2]
        if channels not in (1, 3):
            raise ConfigError(
                f"filters of {channels} channels are no colours; take `filters` themselves"
            )
        most = np.abs(self.filters).max(axis=(1, 2, 3), keepdims=True)
        pixels = np.rint(128 + 127 * self.filters / most).astype(np.uint8)
        pixels = np.moveaxis(pixels, 1, -1)  # (n, p, p, C)
        return np.broadcast_to(pixels, (*pixels.shape[:3], 3)).copy()

    def png(self, *, columns: int = 7) -> bytes:
        """The pictures in rows, each over its share of the variance, as a PNG."""
        images = self.images
        times = max(FILTER_SIDE // images.shape[1], 1)
        step = images.shape[1] * times + MARGIN
        rows = -(-len(images) // columns)
        font, small = ImageFont.load_default(14), ImageFont.load_default(12)
        title = f"Embedding filters: the first {len(images)} principal components"
        width = max(columns * step, int(font.getlength(title)) + MARGIN) + MARGIN
        sheet = Image.new("RGB", (width, MARGIN + LINE + rows * (step + 10)), PAPER)
        pen = ImageDraw.Draw(sheet)
        pen.text((MARGIN, MARGIN - 2), title, INK, font)
        for i, (image, share) in enumerate(zip(images, self.shares, strict=True)):
            left, top = MARGIN + i % columns * step, MARGIN + LINE + i // columns * (step + 10)
            sheet.paste(Image.fromarray(image.repeat(times, 0).repeat(times, 1)), (left, top))
            middle = left + (step - MARGIN) // 2, top + step - MARGIN + 3
            pen.text(middle, f"{share:.1%}", INK, small, anchor="mt")
        return png(np.asarray(sheet))


def principal_components(model: Backbone, count: int = 28) -> Components:
    """The principal components of a model's D embedding filters, each C p p numbers.

    The first 28 are those of arXiv:2010.11929, fig. 7 left; fewer where there are not so many. The
    mean of the filters is taken off first. Filters are of normalised pixels. A component and its
    negative are the same: here the largest value is positive.

    Raises:
        ConfigError: the model projects no patches of pixels, or a count below 1.
    """
    if count < 1:
        raise ConfigError(f"count={count} is less than 1; try 28")
    weight = patch_embed(model).proj.weight.detach().double().cpu().numpy()  # (D, C, p, p)
    flat = weight.reshape(len(weight), -1)
    _, spread, axes = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    count = min(count, max(len(flat) - 1, 1), flat.shape[1])
    axes = axes[:count]
    largest = np.abs(axes).argmax(axis=1)
    axes *= np.sign(axes[np.arange(count), largest])[:, None]
    total = (spread**2).sum()
    shares = spread[:count] ** 2 / total if total else np.zeros(count)
    return Components(axes.reshape(count, *weight.shape[1:]), shares)
