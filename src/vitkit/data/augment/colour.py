"""Brightness, contrast and colour of images: (B, C, H, W) uint8 -> the same.

All but `hue` are Pillow's `ImageEnhance` to the bit. What concerns colours leaves images of one
channel as they are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vitkit.data.augment.chosen import change_as_chosen
from vitkit.data.augment.levels import luminance, per_image, to_uint8


def blend(start: Tensor | int, images: Tensor, factor: Tensor) -> Tensor:
    """From `start` at factor 0 to the image at 1 and beyond; `factor` is (B,), any number."""
    x = images.float()
    return to_uint8(x.sub_(start).mul_(per_image(factor.float())).add_(start))


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """0 is black, 1 leaves the image, 2 is twice as bright; `factor` is (B,)."""
    return blend(0, images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0 is the mean luminance everywhere, 1 leaves the image; `factor` is (B,)."""
    total = luminance(images).to(torch.int32).sum((1, 2, 3), keepdim=True)
    count = images.shape[-2] * images.shape[-1]
    mean = torch.div(2 * total + count, 2 * count, rounding_mode="floor")  # rounded half up
    return blend(mean, images, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0 is grey, 1 leaves the image, 2 doubles each colour's distance from grey; (B,)."""
    if images.shape[1] == 1:
        return images
    return blend(luminance(images), images, factor)


def grey(images: Tensor) -> Tensor:
    """Every channel becomes the luminance."""
    if images.shape[1] == 1:
        return images
    return to_uint8(luminance(images)).expand(-1, images.shape[1], -1, -1).contiguous()


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the colour circle by a share of a full turn, (B,): 1/3 makes red green.

    Within one level of torchvision's `adjust_hue` of tensors, which drops fractions that this
    rounds; Pillow's own HSV has 256 hues only and is further from both.
    """
    if images.shape[1] == 1:
        return images
    x = images.float()
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    sixth = _sixths(x, value, chroma) + 6 * per_image(turn.float())
    start = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    place = (sixth + start).remainder(6)  # where the circle stands for each channel
    share = torch.minimum(place, 4 - place).clamp_(0, 1)
    return to_uint8(value - chroma * share + 0.5)


def _sixths(x: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Hue in sixths of a turn from red: (B, 3, H, W) -> (B, 1, H, W)."""
    red, green, blue = x.split(1, dim=1)
    chroma = chroma.clamp(min=1)  # of a grey pixel any hue is right
    from_red = (green - blue) / chroma
    from_green = (blue - red) / chroma + 2
    from_blue = (red - green) / chroma + 4
    rest = torch.where(value == green, from_green, from_blue)
    return torch.where(value == red, from_red, rest)


def random_jitter(images: Tensor, most: float, turn: float = 0.0) -> Tensor:
    """Brightness, contrast and saturation, each by a factor from [1 - most, 1 + most], and hue.

    That turns by up to a share `turn` of the circle either way, if by any. The order is random,
    each image's own; a factor is never below 0. As torchvision's `ColorJitter`.
    """
    low, high = max(1 - most, 0.0), 1 + most
    changes: list[Callable[..., Tensor]] = [brightness, contrast, saturation] if most else []
    limits = [(low, high - low)] * len(changes)
    if turn:
        changes, limits = [*changes, hue], [*limits, (-turn, 2 * turn)]
    if not changes:
        return images
    least, reach = torch.tensor(limits, device=images.device).T
    draws = torch.rand(2, len(images), len(changes), device=images.device)
    strength = least + reach * draws[0]
    for change in draws[1].argsort(1).split(1, dim=1):
        images = change_as_chosen(images, change[:, 0], changes, strength.gather(1, change)[:, 0])
    return images
