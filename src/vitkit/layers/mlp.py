"""The feed-forward part of a transformer block."""

from torch import Tensor, nn


class Mlp(nn.Module):
    """Two linear layers around an exact (erf) GELU (arXiv:1606.08415): (..., D) -> (..., D).

    `dropout` follows each of the two layers (arXiv:2010.11929, appendix B.1).
    """

    def __init__(self, dim: int, hidden_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(self.act(self.fc1(x)))  # (..., hidden_dim)
        out: Tensor = self.drop2(self.fc2(x))
        return out
