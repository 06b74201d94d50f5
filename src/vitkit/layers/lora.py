"""Low-rank adaptation of a linear layer (arXiv:2106.09685)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.errors import ConfigError


class LoRALinear(nn.Linear):
    """A frozen linear layer with a change of low rank that learns: (..., D) -> (..., E).

    Its matrix is W + alpha / rank * B A (arXiv:2106.09685, eq. 3), A of (rank, D) and B of
    (E, rank). B starts at zero, so nothing changes at first; A is uniform in +-D ** -0.5, as in the
    authors' code. `weight` and `bias` are those of the layer that is given, not copies.

    Raises:
        ConfigError: a rank that is below 1 or above the smaller of D and E.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        narrow = min(linear.in_features, linear.out_features)
        if not 1 <= rank <= narrow:
            raise ConfigError(f"rank={rank} is not between 1 and the layer's width, {narrow}")
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, has_bias, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(False)
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.uniform_(self.lora_a, -(linear.in_features**-0.5), linear.in_features**-0.5)
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer with the same result, to rounding, and weights of its own."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.scale * self.lora_b @ self.lora_a)
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.clone())
        return plain.train(self.training)
