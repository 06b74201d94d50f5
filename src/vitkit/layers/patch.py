"""An image cut into patches, each projected to a vector."""

import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.errors import ConfigError


class PatchEmbed(nn.Module):
    """Project each patch of `patch_size` x `patch_size` pixels: (B, C, H, W) -> (B, h, w, D).

    Sides that are no multiple of the patch are padded with zeros below and to the right.
    `norm_eps` adds a LayerNorm after the projection, as Swin has it. Source: arXiv:2010.11929,
    eq. 1.
    """

    def __init__(
        self, in_channels: int, dim: int, patch_size: int, *, norm_eps: float | None = None
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        down, right = -height % self.patch_size, -width % self.patch_size
        if down or right:
            x = F.pad(x, (0, right, 0, down))
        patches: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))  # (B, h, w, D)
        return patches


class HybridEmbed(PatchEmbed):
    """Project patches of a CNN's map instead of pixels: (B, C, H, W) -> (B, h, w, D).

    `backbone` makes a map of `channels` from an image, and a patch is `cells` x `cells` of it.
    Source: arXiv:2010.11929, section 3.1.
    """

    def __init__(self, backbone: nn.Module, channels: int, dim: int, cells: int) -> None:
        super().__init__(channels, dim, cells)
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.backbone(x))


def cells_of_patch(patch_size: int, stride: int) -> int:
    """How many cells of a map a patch is wide, where `stride` pixels make a cell.

    Raises:
        ConfigError: the patch is no whole number of cells.
    """
    if patch_size % stride:
        near = -(-patch_size // stride) * stride
        raise ConfigError(
            f"patch_size={patch_size} is not a multiple of the {stride} pixels that its "
            f"convolutions make one cell of; try {near}"
        )
    return patch_size // stride
