"""Self-attention inside shifted windows (arXiv:2103.14030, section 3.2).

A map is (B, height, width, D), a window is (height, width) in tokens, N = height * width tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.layers.attention import MapListener, attend, width_of_head

MASKED = -100.0  # added to a forbidden score; finite, as the published weights were trained


def fit_window(grid: tuple[int, int], window_size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The window, and the shift of every second block, of a map of `grid` tokens.

    A side no longer than `window_size` is one window, which leaves nothing to shift.
    """
    height, width = (min(side, window_size) for side in grid)
    down, across = (window_size // 2 if side > window_size else 0 for side in grid)
    return (height, width), (down, across)


def pad_to_multiple(x: Tensor, sides: tuple[int, int]) -> Tensor:
    """Zeros below and to the right until `sides` divide the map: (B, h, w, D) -> (B, h', w', D)."""
    below, right = -x.shape[1] % sides[0], -x.shape[2] % sides[1]
    return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut maps into windows, row by row: (B, height, width, D) -> (B * windows, N, D).

    Both sides must be multiples of the window's.
    """
    batch, height, width, dim = x.shape
    down, across = height // window[0], width // window[1]
    x = x.reshape(batch, down, window[0], across, window[1], dim).transpose(2, 3)
    return x.reshape(batch * down * across, window[0] * window[1], dim)


def reverse(windows: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Put windows back into maps of `size`: (B * windows, N, D) -> (B, height, width, D)."""
    height, width = size
    x = windows.reshape(-1, height // window[0], width // window[1], *window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


def shift_mask(
    size: tuple[int, int],
    window: tuple[int, int],
    shift: tuple[int, int],
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """What to add to the scores of a map of `size` rolled by -`shift`: (windows, N, N), 0 or -100.

    The roll brings the first `shift` rows and columns to the far end, beside tokens that are no
    neighbours of theirs in the image. Such pairs get -100. `size` is the padded one: on a padded
    map the seam is taken to be `shift` before the end of the padding, as timm does.
    """
    down, across = (
        torch.arange(side, device=device) >= side - step
        for side, step in zip(size, shift, strict=True)
    )
    region = 2 * down[:, None] + across  # (height, width), up to four regions
    region = partition(region[None, :, :, None], window)  # (windows, N, 1)
    apart = region != region.mT  # (windows, N, N)
    return torch.zeros(apart.shape, device=device, dtype=dtype).masked_fill(apart, MASKED)


def bias_of_offsets(table: Tensor, window: tuple[int, int]) -> Tensor:
    """What a table says between any two tokens of a window: (2 h - 1, 2 w - 1, H) -> (H, N, N).

    The table has an entry for every offset between two tokens, from the most negative on.
    """
    height, width = window
    # Row r sees row s at entry r - s + height - 1: it reads a run of the table, backwards.
    runs = table.unfold(0, height, 1).unfold(1, width, 1)  # (height, width, H, height, width)
    runs = runs.flip(-2, -1).permute(2, 0, 1, 3, 4)  # (H, height, width, height, width)
    return runs.reshape(-1, height * width, height * width)


def attend_in_windows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    on_map: MapListener | None = None,
) -> Tensor:
    """Attention inside each window: 3 x (B * windows, H, N, d) -> (B * windows, N, H * d).

    `bias`, (H, N, N), is added to the scores of every window and `mask`, (windows, N, N), to those
    of the windows of every image. The rest is as in `attend`; `on_map` receives
    (B * windows, H, N, N).
    """
    num_heads = len(bias)
    bias = bias[None] if mask is None else bias + mask[:, None]  # (1 or windows, H, N, N)
    if on_map is None:
        # Windows of one image stand beside its heads, so that one bias broadcasts over the batch.
        q, k, v = (t.unflatten(0, (-1, len(bias))).flatten(1, 2) for t in (q, k, v))
        bias = bias.flatten(0, 1)[None]  # (1, windows * H, N, N)
    else:  # the very maps that are multiplied, so that a listener can ask for their gradients
        bias = bias.repeat(len(q) // len(bias), 1, 1, 1)  # (B * windows, H, N, N)
    y = attend(q, k, v, bias, scale=scale, dropout=dropout, on_map=on_map)
    y = y.reshape(-1, num_heads, *y.shape[-2:])  # (B * windows, H, N, d)
    return y.transpose(1, 2).flatten(2)


class WindowAttention(nn.Module):
    """Self-attention inside each window with a relative position bias (arXiv:2103.14030, eq. 4).

    (B * windows, N, D) -> (B * windows, N, D). The bias is read from its table in each call: no
    buffer can go stale, and a model built on the meta device only needs its weights.

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
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width_of_head(dim, num_heads)  # refuses heads that do not divide
        self.num_heads = num_heads
        self.window = window
        self.attention_dropout = attention_dropout
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)
        self.on_map: MapListener | None = None
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`, (windows, N, N), is added to the scores of the windows of every image."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B * windows, N, 3, H, D/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B * windows, H, N, D/H)
        bias = self.position_bias()  # (H, N, N)
        dropout = self.attention_dropout if self.training else 0.0
        y = attend_in_windows(q, k, v, bias, mask, dropout=dropout, on_map=self.on_map)
        out: Tensor = self.proj_drop(self.proj(y))
        return out  # (B * windows, N, D)

    def position_bias(self) -> Tensor:
        """The bias between any two tokens of a window, found by their offset: (H, N, N)."""
        height, width = self.window
        table = self.relative_position_bias_table.reshape(2 * height - 1, 2 * width - 1, -1)
        return bias_of_offsets(table, self.window)
