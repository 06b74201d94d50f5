"""Self-attention inside windows by the cosine of queries and keys (arXiv:2111.09883, section 3)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.layers.attention import MapListener, width_of_head
from vitkit.layers.window import attend_in_windows, bias_of_offsets

HIDDEN = 512  # width of the small network that turns offsets into biases
STRONGEST_BIAS = 16.0
STEEPEST = math.log(100)  # of a cosine's scale: the paper keeps the temperature above 0.01


def log_offsets(
    window: tuple[int, int], trained: tuple[int, int], *, device: torch.device | None = None
) -> Tensor:
    """Offsets between two tokens of a window, down and across: (2 h - 1, 2 w - 1, 2).

    They are logarithmic, so that larger windows need little that smaller ones have not seen
    (arXiv:2111.09883, eq. 4). As in the authors' code, but not in the paper, the longest offset of
    the `trained` window counts as 8, and the logarithm is to base 8.
    """
    sides = []
    for side, known in zip(window, trained, strict=True):
        # float32 whatever the type of the model, as the published weights were trained.
        steps = torch.arange(1 - side, side, device=device, dtype=torch.float32)
        steps = steps / max(known - 1, 1) * 8
        sides.append(steps.sign() * steps.abs().add(1).log2() / 3)
    return torch.stack(torch.meshgrid(sides, indexing="ij"), dim=-1)


class CosineWindowAttention(nn.Module):
    """Self-attention inside each window by cosine (arXiv:2111.09883, eq. 2).

    (B * windows, N, D) -> (B * windows, N, D). A small network makes the bias between two tokens
    from their offset (eq. 3), in each call: no buffer can go stale. `pretrained` is the window, in
    tokens, whose offsets that network was trained with, by default this one.

    `dropout` acts on the output and `attention_dropout` on the map. Set `on_map` to receive the
    map, (B * windows, H, N, N) before dropout; the result agrees with the unobserved one to
    rounding.

    Raises:
        ConfigError: `dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: tuple[int, int],
        *,
        pretrained: tuple[int, int] | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width_of_head(dim, num_heads)  # refuses heads that do not divide
        self.num_heads = num_heads
        self.window = window
        self.pretrained = pretrained or window
        self.attention_dropout = attention_dropout
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, num_heads, bias=False)
        )
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)
        self.on_map: MapListener | None = None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`, (windows, N, N), is added to the scores of the windows of every image."""
        qkv = self.qkv(x)  # (B * windows, N, 3 D)
        qkv += torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1))  # (B * windows, N, 3, H, D/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B * windows, H, N, D/H)
        scale = self.logit_scale.clamp(max=STEEPEST).exp()  # (H, 1, 1)
        q = (F.normalize(q, dim=-1) * scale).to(v.dtype)  # autocast may widen a norm
        k = F.normalize(k, dim=-1).to(v.dtype)
        bias = self.position_bias()  # (H, N, N)
        dropout = self.attention_dropout if self.training else 0.0
        y = attend_in_windows(q, k, v, bias, mask, scale=1.0, dropout=dropout, on_map=self.on_map)
        out: Tensor = self.proj_drop(self.proj(y))
        return out  # (B * windows, N, D)

    def position_bias(self) -> Tensor:
        """The bias between any two tokens of a window, in (0, 16): (H, N, N)."""
        like = self.logit_scale
        offsets = log_offsets(self.window, self.pretrained, device=like.device).to(like.dtype)
        table = STRONGEST_BIAS * self.cpb_mlp(offsets).sigmoid()  # (2 h - 1, 2 w - 1, H)
        return bias_of_offsets(table, self.window)
