import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers import attention
from vitkit.layers.attention import Attention, attend

Heads = tuple[Tensor, Tensor, Tensor]

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

# Largest error, as a part of the largest |output|: a few roundings of scores, map and product.
ROUNDING = {
    torch.float64: 1e-13,
    torch.float32: 2e-6,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}


def heads(m: int = 17, dtype: torch.dtype | None = None) -> Heads:
    """17 queries, `m` keys and values, whose scores reach about 4."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64).to(dtype) for n in (17, m, m))
    return q, k, v


def softmax_rows(q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """The map in float64, from the formula."""
    scores = torch.einsum("bhnd,bhmd->bhnm", q.double(), k.double())
    scores = scores * scale if scale is not None else scores / q.shape[-1] ** 0.5
    weights = (scores if bias is None else scores + bias.double()).exp()
    return weights / weights.sum(-1, keepdim=True)


def oracle(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    return torch.einsum("bhnm,bhmd->bhnd", softmax_rows(q, k, bias, scale), v.double())


def assert_rounds_to(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype and actual.shape == expected.shape
    gap = (actual.double() - expected).abs().max() / expected.abs().max()
    assert gap <= ROUNDING[dtype]


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The type of every call of the fused kernel."""
    calls: list[torch.dtype] = []
    kernel = F.scaled_dot_product_attention

    def spy(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(q.dtype)
        return kernel(q, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return calls


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("bias", [None, (1, 3, 17, 23), (2, 1, 17, 23), (17, 23), (2, 1, 1, 23)])
@pytest.mark.parametrize("observed", [False, True], ids=["", "observed"])
def test_every_path_agrees_with_the_formula(
    observed: bool, bias: tuple[int, ...] | None, scale: float | None, dtype: torch.dtype
) -> None:
    q, k, v = heads(m=23, dtype=dtype)
    term = None if bias is None else torch.randn(bias, dtype=torch.float64).to(dtype)
    maps: list[Tensor] = []
    y = attend(q, k, v, term, scale=scale, on_map=maps.append if observed else None)
    assert_rounds_to(y, oracle(q, k, v, term, scale), dtype)
    assert len(maps) == observed
    for seen in maps:
        assert_rounds_to(seen, softmax_rows(q, k, term, scale), dtype)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_gradients_agree_with_the_formula(dtype: torch.dtype) -> None:
    inputs = [x.requires_grad_() for x in heads(m=23, dtype=dtype)]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    attend(*inputs).square().sum().backward()
    oracle(*wide).square().sum().backward()
    for ours, expected in zip(inputs, wide, strict=True):
        assert ours.grad is not None and expected.grad is not None
        assert_rounds_to(ours.grad, expected.grad, dtype)


@pytest.mark.parametrize("bias_dtype", [torch.float32, torch.float64], ids=str)
def test_bias_may_have_another_type(bias_dtype: torch.dtype) -> None:
    q, k, v = heads(dtype=torch.bfloat16)
    bias = torch.randn(1, 3, 17, 17, dtype=bias_dtype)
    assert_rounds_to(attend(q, k, v, bias), oracle(q, k, v, bias), torch.bfloat16)


@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("mode", ["frozen", "no_grad", "training"])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_kernel_on_a_cpu(
    dtype: torch.dtype, mode: str, biased: bool, fused_calls: list[torch.dtype]
) -> None:
    """Explicit in bfloat16, and in float32 where a bias is trained, as in Swin."""
    q, k, v = heads(dtype=dtype)
    q.requires_grad_(mode != "frozen")
    with torch.set_grad_enabled(mode != "no_grad"):
        attend(q, k, v, torch.zeros(17, 17, dtype=dtype) if biased else None)
    explicit = dtype == torch.bfloat16 or (dtype == torch.float32 and biased and mode == "training")
    assert len(fused_calls) == (not explicit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_observer_always_gets_explicit_products(
    dtype: torch.dtype, fused_calls: list[torch.dtype]
) -> None:
    attend(*heads(dtype=dtype), on_map=lambda _: None)
    assert fused_calls == []


@pytest.mark.parametrize(("spare", "fused"), [(0, False), (-1, True)])
def test_a_map_too_large_to_write_out_is_fused(
    spare: int, fused: bool, fused_calls: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    map_bytes = 2 * 3 * 17 * 23 * 2  # (B, H, N, M) in 16 bits
    limits = {(torch.bfloat16, False, False): (map_bytes + spare) / 2**20}
    monkeypatch.setattr(attention, "EXPLICIT_MIB", limits)
    attend(*heads(m=23, dtype=torch.bfloat16))
    assert len(fused_calls) == fused


@pytest.mark.parametrize(
    ("results", "least"), [("attention-cpu.json", 53), ("attention-cpu-1-thread.json", 60)]
)
def test_the_rule_is_what_was_measured(results: str, least: int) -> None:
    """It takes the faster kernel in most lines, and never one that takes 1.5 times as long."""
    stored = json.loads((RESULTS / results).read_text())
    wrong = []
    for row in stored["rows"]:
        explicit = attention.explicit_wins(
            row["map_bytes"],
            getattr(torch, row["dtype"]),
            training=row["backward"],
            bias=row["bias"],
        )
        loss = 1 / row["ratio"] if explicit else row["ratio"]
        wrong += [loss] if loss > 1.05 else []
    assert len(stored["rows"]) - len(wrong) >= least
    assert max(wrong) < 1.5


def test_a_compiled_graph_is_whole_and_fused() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    q, k, v = heads(dtype=torch.bfloat16)
    y = torch.compile(attend, backend=keep, fullgraph=True)(q, k, v)
    assert_rounds_to(y, oracle(q, k, v), torch.bfloat16)
    (graph,) = graphs
    called = {node.target for node in graph.graph.nodes}
    assert F.scaled_dot_product_attention in called and torch.matmul not in called


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("observed", [False, True], ids=["", "observed"])
def test_dropout_of_the_map(observed: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, keys, rate = 8 * 4 * 64, 64, 0.25
    q, k = torch.zeros(8, 4, 64, 8, dtype=dtype), torch.randn(8, 4, keys, 8, dtype=dtype)
    v = torch.ones_like(k)  # q = 0: every weight is 1 / keys, and a row sums what was kept of it
    maps: list[Tensor] = []
    y = attend(q, k, v, dropout=rate, on_map=maps.append if observed else None)[..., 0].double()
    variance = rate / (1 - rate) / keys  # of a sum of `keys` independent kept-or-not terms
    assert abs(y.mean().item() - 1) < 5 * (variance / rows) ** 0.5 + ROUNDING[dtype] / 10
    assert y.var().item() == pytest.approx(variance, rel=0.15)
    for seen in maps:  # before dropout
        torch.testing.assert_close(seen, torch.full_like(seen, 1 / keys))


@pytest.mark.parametrize("num_heads", [1, 4])
def test_matches_torch(num_heads: int) -> None:
    ours = Attention(64, num_heads).double()  # float64: any gap is the formula
    reference = nn.MultiheadAttention(64, num_heads, batch_first=True, dtype=torch.float64)
    nn.init.normal_(ours.qkv.bias)
    nn.init.normal_(ours.proj.bias)
    reference.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = torch.randn(2, 197, 64, dtype=torch.float64)
    expected, expected_map = reference(x, x, x, average_attn_weights=False)
    maps: list[Tensor] = []
    torch.testing.assert_close(ours(x), expected)
    ours.on_map = maps.append
    torch.testing.assert_close(ours(x), expected)
    torch.testing.assert_close(maps[0], expected_map)


def test_qk_norm_normalises_each_head() -> None:
    ours = Attention(32, 4, qk_norm=True, norm_eps=1e-5).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    q, k, v = ours.qkv(x).chunk(3, dim=-1)

    def split(t: Tensor, norm: nn.Module | None = None) -> Tensor:
        parts = torch.stack(t.split(8, dim=-1), dim=1)  # (B, H, N, D/H)
        if norm is None:
            return parts
        centred = parts - parts.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * norm.weight + norm.bias

    y = oracle(split(q, ours.q_norm), split(k, ours.k_norm), split(v))
    expected = torch.cat(y.unbind(1), dim=-1) @ ours.proj.weight.T + ours.proj.bias
    torch.testing.assert_close(ours(x), expected)


def test_queries_keys_and_values_may_have_no_bias() -> None:
    plain, biased = Attention(8, 2, qkv_bias=False), Attention(8, 2)
    assert plain.qkv.bias is None
    biased.load_state_dict({**plain.state_dict(), "qkv.bias": torch.zeros(24)}, strict=True)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(plain(x), biased(x))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_runs_under_autocast(qk_norm: bool) -> None:
    ours, x = Attention(32, 4, qk_norm=qk_norm), torch.randn(2, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), ours(x), atol=2e-2, rtol=2e-2)


def test_a_norm_may_widen_queries_and_keys() -> None:
    """Autocast on a GPU runs LayerNorm in float32."""

    class Widen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float()

    ours, x = Attention(32, 4).bfloat16(), torch.randn(2, 9, 32, dtype=torch.bfloat16)
    plain = ours(x)
    ours.q_norm = ours.k_norm = Widen()
    assert torch.equal(ours(x), plain)


def test_dropout_only_in_training() -> None:
    ours, x = Attention(32, 4, attention_dropout=0.5), torch.randn(2, 9, 32)
    assert not torch.equal(ours.train()(x), ours(x))
    assert torch.equal(ours.eval()(x), ours(x))


@pytest.mark.parametrize(("dim", "remedy"), [(65, 1), (3, 3), (66, 3)])
def test_width_must_be_a_multiple_of_the_heads(dim: int, remedy: int) -> None:
    message = f"dim={dim} is not a multiple of num_heads=4; try num_heads={remedy}"
    with pytest.raises(ConfigError, match=message):
        Attention(dim, 4)
    with pytest.raises(
        ConfigError, match="dim=8 is not a multiple of num_heads=0; try num_heads=1"
    ):
        Attention(8, 0)
