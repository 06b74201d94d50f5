"""The feed-forward part of a transformer block."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the form of GELU that CLIP has (arXiv:1606.08415, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,  # exact, with erf: the PyTorch families
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),  # Flax's default
    "quick_gelu": QuickGELU,
}


class Mlp(nn.Module):
    """Two linear layers around a GELU (arXiv:1606.08415), by default exact: (..., D) -> (..., D).

    `dropout` follows each of the two layers (arXiv:2010.11929, appendix B.1).
    """

    def __init__(
        self, dim: int, hidden_dim: int, *, activation: Activation = "gelu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = ACTIVATIONS[activation]()
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(self.act(self.fc1(x)))  # (..., hidden_dim)
        out: Tensor = self.drop2(self.fc2(x))
        return out
