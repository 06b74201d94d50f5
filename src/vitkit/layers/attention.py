"""Scaled dot-product attention (arXiv:1706.03762, eq. 1) and the multi-head layer around it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.errors import ConfigError

MapListener = Callable[[Tensor], None]

# Where two matrix products and a softmax beat the fused kernel on a CPU: the largest map in MiB, by
# type, with gradients, with a bias. benchmarks/attention.py measures it and tells how often this
# table is right for what benchmarks/results/ keeps. What is not listed is fused: in float16 that
# wins by far, in float32 mostly; but it has no gradient for a bias, and then falls back to more.
EXPLICIT_MIB = {
    (torch.bfloat16, False, False): 32,
    (torch.bfloat16, False, True): 32,
    (torch.bfloat16, True, False): 96,
    (torch.bfloat16, True, True): 96,
    (torch.float32, True, True): 64,
}


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    on_map: MapListener | None = None,
) -> Tensor:
    """Attention of queries over keys: (B, H, N, d), (B, H, M, d), (B, H, M, d) -> (B, H, N, d).

    `scale` multiplies the scores, by default d ** -0.5, and `bias` is added to them; it broadcasts
    to (B, H, N, M). `on_map` receives the map, (B, H, N, M) before dropout. The kernel is the
    fastest for device, type, size and training; all agree to the rounding of the type.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    bias = None if bias is None else bias.to(q.dtype)  # the kernels take no mixture
    if on_map is None and not _explicit_is_faster(q, k, bias):
        return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale)
    scores = (q * scale) @ k.transpose(-2, -1)  # (B, H, N, M)
    attention = (scores if bias is None else scores + bias).softmax(dim=-1)
    if on_map is not None:
        on_map(attention)
    return F.dropout(attention, dropout) @ v if dropout else attention @ v


def _explicit_is_faster(q: Tensor, k: Tensor, bias: Tensor | None) -> bool:
    if q.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    map_bytes = q.shape[:-1].numel() * k.shape[-2] * q.element_size()
    training = q.requires_grad and torch.is_grad_enabled()
    return explicit_wins(map_bytes, q.dtype, training=training, bias=bias is not None)


def explicit_wins(map_bytes: int, dtype: torch.dtype, *, training: bool, bias: bool) -> bool:
    """What `EXPLICIT_MIB` says of a map of so many bytes on a CPU."""
    return map_bytes <= EXPLICIT_MIB.get((dtype, training, bias), 0) * 2**20


def width_of_head(dim: int, num_heads: int, *, of: str = "") -> int:
    """What each of `num_heads` equal heads gets of the width `dim`.

    `of` says in a message which width it is, such as ` of stage 2`.

    Raises:
        ConfigError: `dim` is not a multiple of `num_heads`.
    """
    if num_heads < 1 or dim % num_heads:
        near = next(n for n in range(max(min(num_heads, dim), 1), 0, -1) if dim % n == 0)
        raise ConfigError(
            f"dim={dim}{of} is not a multiple of num_heads={num_heads}; try num_heads={near}"
        )
    return dim // num_heads


class Attention(nn.Module):
    """Multi-head self-attention (arXiv:1706.03762): (B, N, D) -> (B, N, D).

    `qk_norm` normalises queries and keys per head (arXiv:2302.05442). `dropout` acts on the output
    and `attention_dropout` on the map. Set `on_map` to receive the map, (B, H, N, N) before
    dropout, at O(N^2) memory; the result agrees with the unobserved one to rounding.

    Raises:
        ConfigError: `dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        head_dim = width_of_head(dim, num_heads)
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = nn.LayerNorm(head_dim, eps=norm_eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim, eps=norm_eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)
        self.on_map: MapListener | None = None

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, H, D/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, D/H)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)  # autocast may widen a norm
        dropout = self.attention_dropout if self.training else 0.0
        y = attend(q, k, v, dropout=dropout, on_map=self.on_map)  # (B, H, N, D/H)
        out: Tensor = self.proj_drop(self.proj(y.transpose(1, 2).flatten(2)))  # (B, N, D)
        return out
