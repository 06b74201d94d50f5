"""Is a map true? What it points at is taken away, or compared with where the object lies.

Deletion and insertion (arXiv:1806.07421) ask the model; the pointing game (arXiv:1608.00507) asks
for the object's mask.
"""

import zlib

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.gradients import AT_ONCE
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

STEPS = 24  # of a curve
BLUR = 0.1  # standard deviation, as a share of the image's shorter side
TIES = 1  # where the draw of equal cells begins, apart from that of random maps
LEAST_CELLS = 7  # along the shorter side, where the model's own grid is coarser


def deletion(
    model: Backbone,
    x: Tensor,
    target: Target,
    maps: Tensor,
    *,
    steps: int = STEPS,
    cell: int | None = None,
    baseline: float = 0.0,
) -> Tensor:
    """The class's share as cells are removed, most relevant first: (B, C, H, W) -> (B, steps + 1).

    Deletion (arXiv:1806.07421): a small `area` is good. `maps` are (B, h, w) on any grid. Removed
    cells get `baseline`, which is of normalised pixels: 0 is the mean that the model was trained
    with. Unlike there, squares of `cell` pixels are removed whole (None: `cell_of`): how scattered
    the removed pixels lie moves the curve by itself, and would tell fine maps from coarse ones
    instead of true ones from false.

    Raises:
        ConfigError: `steps` or `cell` below 1.
    """
    places = _places(maps, x, cell_of(model, x) if cell is None else cell)
    return _curve(model, x, torch.full_like(x, baseline), target, places, steps)


def insertion(
    model: Backbone,
    x: Tensor,
    target: Target,
    maps: Tensor,
    *,
    steps: int = STEPS,
    cell: int | None = None,
    blur: float = BLUR,
) -> Tensor:
    """The class's share as cells of a blurred image get sharp: (B, C, H, W) -> (B, steps + 1).

    Insertion (arXiv:1806.07421): a large `area` is good. `blur` is the standard deviation as a
    share of the shorter side; see `deletion` for the rest.

    Raises:
        ConfigError: `steps` or `cell` below 1, or `blur` not in (0, 1].
    """
    places = _places(maps, x, cell_of(model, x) if cell is None else cell)
    return _curve(model, blurred(x, blur), x, target, places, steps)


def area(curve: Tensor) -> Tensor:
    """The area under curves over [0, 1], by trapezoids: (B, steps + 1) -> (B,) in [0, 1]."""
    return (curve[:, 1:] + curve[:, :-1]).mean(dim=1) / 2


def pointing(maps: Tensor, masks: Tensor, *, tolerance: int = 0) -> Tensor:
    """Whether the highest point of a map lies on the object: (B, h, w), (B, H, W) bool -> (B,).

    The pointing game (arXiv:1608.00507); the point is the middle of the highest cell. A map that is
    stretched in straight lines has its highest pixel there too, but for rounding, which favours
    cells at the border. `tolerance` is how many pixels the point may lie off the mask; 15 is
    customary where masks are boxes. Between pixels, and where several cells are equally high, it is
    the share that hits: a map that says nothing gets the share of the image that the mask covers,
    which is chance.

    Raises:
        ConfigError: `tolerance` is below 0.
    """
    wide = widened(masks, tolerance).float()[:, None]
    on_object = F.interpolate(wide, maps.shape[1:], mode="bilinear")[:, 0]  # at the cells' middles
    top = maps == maps.amax(dim=(1, 2), keepdim=True)
    return (top * on_object).sum(dim=(1, 2)) / top.sum(dim=(1, 2))


def widened(masks: Tensor, pixels: int) -> Tensor:
    """Masks with all around them that is no more than so many pixels away: (B, H, W) bool.

    Raises:
        ConfigError: `pixels` is below 0.
    """
    if pixels < 0:
        raise ConfigError(f"tolerance={pixels} is below 0 pixels; try 0, or 15 for boxes")
    reach = torch.arange(-pixels, pixels + 1, device=masks.device)
    disc = (reach[:, None] ** 2 + reach**2 <= pixels**2).float()
    return F.conv2d(masks.float()[:, None], disc[None, None], padding=pixels)[:, 0] > 0.5


def blurred(x: Tensor, share: float = BLUR) -> Tensor:
    """Images behind a Gaussian of that deviation, a share of the shorter side: (B, C, H, W).

    Raises:
        ConfigError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ConfigError(f"blur={share} is not in (0, 1]; try {BLUR}")
    deviation = share * min(x.shape[2:])
    for axis in (2, 3):
        at = torch.arange(x.shape[axis], dtype=x.dtype, device=x.device)
        weights = torch.exp(-(((at[:, None] - at) / deviation) ** 2) / 2)
        weights = weights / weights.sum(dim=1, keepdim=True)  # at the edges of what lies inside
        x = (x.transpose(axis, -1) @ weights.mT).transpose(axis, -1)
    return x


def cell_of(model: Backbone, x: Tensor) -> int:
    """Pixels, both sides, of what is removed at once: those of a cell of the last features.

    At most a seventh of the shorter side, so that there is something to rank.
    """
    reduction: int = model.feature_info[-1]["reduction"]
    return max(min(reduction, min(x.shape[2:]) // LEAST_CELLS), 1)


def _places(maps: Tensor, x: Tensor, cell: int) -> Tensor:
    """The place of each pixel's cell in the order of a map, 0 the most relevant: -> (B, H, W).

    Cells get the mean of the map over them. Those that are equally high stand in an order drawn by
    the image's content: the same in every run, and not from top to bottom.
    """
    if cell < 1:
        raise ConfigError(f"cell={cell} is less than 1 pixel; try 16")
    height, width = x.shape[2:]
    pixels = F.interpolate(maps[:, None], (height, width), mode="nearest-exact")
    heights = F.avg_pool2d(pixels, cell, ceil_mode=True)[:, 0]
    places = torch.empty_like(heights, dtype=torch.long)
    bits = x.detach().float().cpu().contiguous().numpy()
    for image, values, place in zip(bits, heights, places, strict=True):
        generator = torch.Generator().manual_seed(zlib.crc32(image.tobytes(), TIES))
        drawn = torch.randperm(values.numel(), generator=generator).to(values.device)
        order = drawn[values.flatten()[drawn].argsort(descending=True, stable=True)]
        place.view(-1)[order] = torch.arange(len(order), device=order.device)
    for axis in (1, 2):
        places = places.repeat_interleave(cell, dim=axis)
    return places[:, :height, :width]


def _curve(
    model: Backbone, before: Tensor, after: Tensor, target: Target, places: Tensor, steps: int
) -> Tensor:
    """The class's share while cells go from `before` to `after`, in the order of their places."""
    if steps < 1:
        raise ConfigError(f"steps={steps} is less than 1; try {STEPS}")
    cells = int(places.max()) + 1
    counts = torch.linspace(0, cells, min(steps, cells) + 1, device=places.device).round()
    shares, each = [], max(AT_ONCE // len(before), 1)
    with torch.no_grad():
        for some in counts.split(each):
            gone = places[:, None, None] < some.view(1, -1, 1, 1, 1)  # (B, s, 1, H, W)
            mixed = torch.where(gone, after[:, None], before[:, None])  # (B, s, C, H, W)
            of_classes = model(mixed.flatten(0, 1)).softmax(dim=1)  # (B * s, K)
            label = target.repeat(len(some)).label[:, None]
            shares.append(of_classes.gather(1, label).unflatten(0, (len(before), -1))[..., 0])
    return torch.cat(shares, dim=1)
