"""Fused attention against explicit products on a CPU: the table behind the rule in `attend`.

    python -m benchmarks.attention --threads 2 --out benchmarks/results/attention-cpu.json
    python -m benchmarks.attention --stored benchmarks/results/attention-cpu.json

The second only tells how often today's rule is right for what was measured then.

Both compute the same from the same packed projection, as the layers hold it, and their outputs are
compared with float64 first. Then they take turns, and the ratio above 1 is what explicit products
gain. `rule` is what `attend` takes; it is wrong where the other one is more than 5 % faster.
"""

import argparse
import datetime
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.layers import attention

SHAPES = [  # (B, H, N, d)
    (1, 3, 197, 64),  # one image: ViT-Ti, ViT-B
    (1, 12, 197, 64),
    (8, 12, 197, 64),  # a batch: ViT-B/16 at 224 pixels, ViT-L/16 at 384, ViT-B/8 at 224
    (32, 12, 197, 64),
    (64, 12, 197, 64),
    (2, 16, 577, 64),
    (8, 16, 577, 64),
    (4, 12, 785, 64),
    (1, 12, 1025, 64),
    (16, 3, 50, 64),
    (32, 6, 257, 64),
    (128, 4, 65, 32),  # small images from scratch
    (512, 3, 49, 32),  # windows of Swin-T, without and with their bias
    (8, 192, 49, 32),
]
BIASED = {(8, 192, 49, 32)}
HALF = SHAPES[:3]  # float16 takes seconds beyond these
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 6e-3}  # of the largest value
TIE = 0.05
HEAD = f"{'(B, H, N, d)':24} type     what                    map  fused ms expl. ms  ratio  rule"
ROUNDS = 7, 41  # at least, at most


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; times are medians in milliseconds."""

    shape: tuple[int, int, int, int]
    bias: bool
    dtype: str
    backward: bool
    map_bytes: int
    fused: float
    explicit: float
    ratio: float  # median over rounds of fused / explicit
    spread: tuple[float, float]  # its quartiles

    @property
    def rule(self) -> str:
        explicit = attention.explicit_wins(
            self.map_bytes, getattr(torch, self.dtype), training=self.backward, bias=self.bias
        )
        return "explicit" if explicit else "fused"

    @property
    def right(self) -> bool:
        """Whether the rule takes the faster one, or it hardly matters."""
        return abs(math.log(self.ratio)) < TIE or (self.ratio > 1) == (self.rule == "explicit")


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, bias)


def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    return attention.attend(q, k, v, bias, on_map=lambda _: None)  # an observer forces it


def layer(kernel: Kernel, packed: Tensor, bias: Tensor | None) -> Tensor:
    """What stands between a layer's two projections: (B, N, 3, H, d) -> (B, N, H * d)."""
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    return kernel(q, k, v, bias).transpose(1, 2).flatten(2)


def forward(kernel: Kernel, packed: Tensor, bias: Tensor | None) -> Tensor:
    with torch.inference_mode():
        return layer(kernel, packed, bias)


def forward_backward(kernel: Kernel, packed: Tensor, bias: Tensor | None) -> Tensor:
    """The gradient, of packed queries, keys and values."""
    packed = packed.detach().requires_grad_()
    y = layer(kernel, packed, bias)
    (gradient,) = torch.autograd.grad(y, packed, torch.ones_like(y))
    return gradient


def check_equal(run: Callable[..., Tensor], packed: Tensor, bias: Tensor | None) -> None:
    """Both kernels give what float64 gives, to the rounding of their type."""
    few, wide = packed[:2], None if bias is None else bias.double()
    expected = run(fused, few.double(), wide)
    for kernel in (fused, explicit):
        gap = (run(kernel, few, bias) - expected).abs().max() / expected.abs().max()
        assert gap <= ROUNDING[packed.dtype], (kernel.__name__, packed.shape, packed.dtype, gap)


def timed(run: Callable[..., Tensor], kernel: Kernel, packed: Tensor, bias: Tensor | None) -> float:
    start = time.perf_counter()
    run(kernel, packed, bias)
    return 1e3 * (time.perf_counter() - start)


def measure(
    shape: tuple[int, int, int, int], dtype: torch.dtype, backward: bool, seconds: float
) -> Row:
    """Check, warm up, then let the two take turns for about `seconds`."""
    batch, num_heads, tokens, width = shape
    torch.manual_seed(0)
    packed = torch.randn(batch, tokens, 3, num_heads, width, dtype=dtype)
    bias = torch.randn(1, num_heads, tokens, tokens, dtype=dtype) if shape in BIASED else None
    run = forward_backward if backward else forward
    check_equal(run, packed, bias)
    warm = [timed(run, kernel, packed, bias) for _ in range(2) for kernel in (fused, explicit)]
    rounds = int(min(max(1e3 * seconds / sum(warm[2:]), ROUNDS[0]), ROUNDS[1]))
    times = [
        [timed(run, kernel, packed, bias) for kernel in (fused, explicit)] for _ in range(rounds)
    ]
    low, middle, high = statistics.quantiles((a / b for a, b in times), n=4)
    return Row(
        shape=shape,
        bias=bias is not None,
        dtype=str(dtype).removeprefix("torch."),
        backward=backward,
        map_bytes=batch * num_heads * tokens**2 * packed.element_size(),
        fused=round(statistics.median(a for a, _ in times), 3),
        explicit=round(statistics.median(b for _, b in times), 3),
        ratio=round(middle, 3),
        spread=(round(low, 3), round(high, 3)),
    )


def line(row: Row) -> str:
    shape = str(tuple(row.shape)) + ("+bias" if row.bias else "")
    what = "forward+backward" if row.backward else "forward"
    spread = f"{row.spread[0]:.2f}-{row.spread[1]:.2f}"
    return (
        f"{shape:24} {row.dtype:8} {what:16} {row.map_bytes / 2**20:6.1f} MiB "
        f"{row.fused:8.2f} {row.explicit:8.2f} {row.ratio:6.2f}  {spread:10} "
        f"{row.rule:8} {'right' if row.right else 'WRONG'}"
    )


def tell_right(rows: list[Row]) -> None:
    print(f"the rule is right in {sum(row.right for row in rows)} of {len(rows)} lines")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.6, help="for each line")
    parser.add_argument("--machine", default="", help="what to write about the machine")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    parser.add_argument("--stored", type=Path, help="measure nothing, read such a table")
    arguments = parser.parse_args()
    if arguments.stored is not None:
        rows = [Row(**row) for row in json.loads(arguments.stored.read_text())["rows"]]
        print(HEAD, *map(line, rows), sep="\n")
        tell_right(rows)
        return
    torch.set_num_threads(arguments.threads)
    head = {
        "date": datetime.date.today().isoformat(),
        "machine": arguments.machine,
        "torch": torch.__version__,
        "threads": arguments.threads,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    print(*(f"{key}: {value}" for key, value in head.items()), sep="\n")
    print(HEAD)
    rows = []
    for shape in SHAPES:
        for dtype in ROUNDING:
            if dtype == torch.float16 and shape not in HALF:
                continue
            for backward in (False, True):
                rows.append(measure(shape, dtype, backward, arguments.seconds))
                print(line(rows[-1]), flush=True)
    tell_right(rows)
    if arguments.out is not None:
        table = list(map(asdict, rows))
        arguments.out.write_text(json.dumps(head | {"rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
