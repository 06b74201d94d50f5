from functools import partial

import pytest
import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.pool import AttentionPool, SequencePool


@pytest.mark.parametrize("num_heads", [1, 4])
def test_matches_timm(num_heads: int) -> None:
    torch.manual_seed(0)
    ours = AttentionPool(32, num_heads, mlp_ratio=3.0, norm_eps=1e-6).double()
    reference = AttentionPoolLatent(
        32, num_heads=num_heads, mlp_ratio=3.0, norm_layer=partial(nn.LayerNorm, eps=1e-6)
    ).double()
    for parameter in reference.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x), reference(x))


def test_map_of_the_query_over_the_tokens() -> None:
    pool, maps = AttentionPool(32, 4, mlp_ratio=4.0, norm_eps=1e-6).double(), list[Tensor]()
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    unobserved = pool(x)
    pool.on_map = maps.append
    torch.testing.assert_close(pool(x), unobserved)
    (seen,) = maps
    assert seen.shape == (2, 4, 1, 9)
    torch.testing.assert_close(seen.sum(-1), torch.ones(2, 4, 1, dtype=torch.float64))


def test_order_of_tokens_does_not_matter() -> None:
    pool = AttentionPool(8, 2, mlp_ratio=4.0, norm_eps=1e-6).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(pool(x), pool(x.flip(1)))


def test_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(
        ConfigError, match="dim=30 is not a multiple of num_heads=4; try num_heads=3"
    ):
        AttentionPool(30, 4, mlp_ratio=4.0, norm_eps=1e-6)


def test_sequence_pool_weighs_tokens_by_a_softmax_over_them() -> None:
    pool, maps = SequencePool(6).double(), list[Tensor]()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    scores = x @ pool.attention.weight[0] + pool.attention.bias  # (B, N)
    weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
    expected = (weights[..., None] * x).sum(dim=1)
    torch.testing.assert_close(pool(x), expected)
    pool.on_map = maps.append
    torch.testing.assert_close(pool(x), expected)
    torch.testing.assert_close(maps[0], weights[:, None, None])


def test_sequence_pool_runs_under_autocast() -> None:
    pool, x = SequencePool(6), torch.randn(2, 5, 6)
    expected = pool(x)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            pooled = pool(x.to(dtype))
        torch.testing.assert_close(pooled.float(), expected, rtol=0.05, atol=0.05)
