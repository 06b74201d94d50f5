"""Stochastic depth."""

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError


class DropPath(nn.Module):
    """Zero a residual branch for whole images in training: (B, ...) -> (B, ...).

    Each image keeps its branch with probability 1 - `rate`, and what is kept is divided by that
    probability, so that the expectation is unchanged. Source: arXiv:1603.09382.

    Raises:
        ConfigError: `rate` is not in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ConfigError(f"drop_path={rate} is no probability below 1; try 0.1")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def linear_rates(last: float, depth: int) -> list[float]:
    """Rates of `depth` blocks, rising from 0 to `last` (arXiv:1603.09382, eq. 4)."""
    return torch.linspace(0, last, depth, dtype=torch.float64, device="cpu").tolist()
