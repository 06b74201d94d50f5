"""Where a token stands: fixed sinusoids, and resizing a table of positions to another grid."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.errors import ConfigError

# How a grid of positions is brought to another size, which differs between those who trained them:
# timm, DeiT and Hugging Face, torchvision, Google.
Resize = Literal["bicubic_antialias", "bicubic", "bicubic_corners", "linear_corners"]
METHODS: dict[Resize, dict[str, Any]] = {
    "bicubic_antialias": {"mode": "bicubic", "antialias": True},
    "bicubic": {"mode": "bicubic"},
    "bicubic_corners": {"mode": "bicubic", "align_corners": True},
    "linear_corners": {"mode": "bilinear", "align_corners": True},  # a first-order spline
}


def sincos_1d(length: int, dim: int, *, temperature: float = 10_000.0) -> Tensor:
    """Sine and cosine in turn at falling frequencies (arXiv:1706.03762, sec. 3.5): (length, dim).

    Raises:
        ConfigError: `dim` is odd.
    """
    if dim % 2:
        raise ConfigError(f"dim={dim} is odd; 1-D sinusoids need an even width")
    frequency = temperature ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency  # (length, dim/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


def sincos_2d(grid: tuple[int, int], dim: int, *, temperature: float = 10_000.0) -> Tensor:
    """A quarter of the width each for sin x, cos x, sin y, cos y: (h * w, dim), row by row.

    The form of arXiv:2205.01580: frequencies from 1 to 1 / temperature, both ends included.

    Raises:
        ConfigError: `dim` is not a multiple of 4, or is 4.
    """
    if dim % 4 or dim < 8:
        raise ConfigError(f"dim={dim} is not a multiple of 4 from 8 on; 2-D sinusoids need that")
    exponent = torch.arange(dim // 4, dtype=torch.float64) / (dim // 4 - 1)
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64),
        torch.arange(grid[1], dtype=torch.float64),
        indexing="ij",
    )
    x = columns.flatten()[:, None] * temperature**-exponent  # (h * w, dim/4)
    y = rows.flatten()[:, None] * temperature**-exponent
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()


def resize_positions(
    table: Tensor,
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    prefix: int = 0,
    method: Resize = "bicubic_antialias",
) -> Tensor:
    """Resize a table of positions to another grid: (1, prefix + h*w, D) -> (1, prefix + h'*w', D).

    Bicubic with antialiasing, as timm does it, unless another of `METHODS` is asked for. The first
    `prefix` rows belong to tokens without a place and are kept. Whatever the table's type, it is
    resized in float32: that too is timm's way, and a float64 model agrees with timm's only so.
    """
    if old == new:
        return table
    kept, cells = table[:, :prefix], table[:, prefix:]
    image = cells.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    image = F.interpolate(image.float(), size=new, **METHODS[method])
    cells = image.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)  # (1, h'*w', D)
    return torch.cat([kept, cells], dim=1)
