"""A map that knows nothing: what every method has to beat."""

import zlib

import torch
from torch import Tensor

from vitkit.explain.sites import find_sites, has_attention
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

CELL = 16  # pixels, of models that have no grid


def control(model: Backbone, x: Tensor, target: Target, *, seed: int = 0) -> Tensor:
    """Random values on the grid of the model, drawn by the image and `seed`: -> (B, h, w)."""
    height, width = x.shape[2:]
    if has_attention(model):
        grid = find_sites(model, (height, width))[0].grid
    else:
        grid = (-(-height // CELL), -(-width // CELL))
    drawn = []
    for image in x.detach().float().cpu().contiguous():
        # Of 32 bits, the only ones that torch's generator on a CPU takes notice of.
        content = zlib.crc32(image.numpy().tobytes(), seed % 2**32)
        generator = torch.Generator().manual_seed(content)
        drawn.append(torch.rand(grid, generator=generator))
    return torch.stack(drawn).to(x.device)
