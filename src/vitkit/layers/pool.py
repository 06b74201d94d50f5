"""Many tokens become one vector."""

import torch
from torch import Tensor, nn

from vitkit.layers.attention import MapListener, attend, width_of_head
from vitkit.layers.mlp import Activation, Mlp


class AttentionPool(nn.Module):
    """One learned query attends over all tokens, then an MLP: (B, N, D) -> (B, D).

    The MAP head of "Scaling Vision Transformers" (arXiv:2106.04560). `on_map` receives the map,
    (B, H, 1, N).

    Raises:
        ConfigError: `dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float,
        norm_eps: float,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        width_of_head(dim, num_heads)  # refuses heads that do not divide
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.empty(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), activation=activation)
        self.on_map: MapListener | None = None
        nn.init.trunc_normal_(self.latent, std=dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(self.latent.expand(x.shape[0], -1, -1))  # (B, 1, D)
        q = q.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, 1, D/H)
        kv = self.kv(x).unflatten(-1, (2, self.num_heads, -1))  # (B, N, 2, H, D/H)
        k, v = kv.permute(2, 0, 3, 1, 4)  # each (B, H, N, D/H)
        y = attend(q, k, v, on_map=self.on_map).transpose(1, 2).flatten(2)  # (B, 1, D)
        y = self.proj(y)
        pooled: Tensor = y + self.mlp(self.norm(y))
        return pooled[:, 0]  # (B, D)


class SequencePool(nn.Module):
    """Mean of all tokens by learned weights, which sum to 1: (B, N, D) -> (B, D).

    The SeqPool of CCT (arXiv:2104.05704). `on_map` receives the weights as a map of one head,
    (B, 1, 1, N).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = nn.Linear(dim, 1)
        self.on_map: MapListener | None = None

    def forward(self, x: Tensor) -> Tensor:
        weights = self.attention(x).softmax(dim=1).mT[:, None]  # (B, 1, 1, N)
        if self.on_map is not None:
            self.on_map(weights)
        pooled: Tensor = (weights[:, 0].to(x.dtype) @ x)[:, 0]  # autocast may widen a softmax
        return pooled  # (B, D)
