import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import StdConv2dSame

from vitkit.layers.weight_standard import StdConv2d, standardise


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_matches_timm(size: tuple[int, int], kernel_size: int, stride: int) -> None:
    ours = StdConv2d(5, 6, kernel_size, stride, eps=1e-3).double()
    theirs = StdConv2dSame(5, 6, kernel_size, stride, eps=1e-3).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    assert ours(x).shape == (2, 6, -(-size[0] // stride), -(-size[1] // stride))
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("eps", "std_eps"), [(1e-3, 0.0), (0.0, 1e-3), (1e-2, 1e-3)])
def test_filters_are_standardised_one_by_one(eps: float, std_eps: float) -> None:
    weight = 3 + torch.randn(4, 2, 3, 3, dtype=torch.float64) * torch.rand(4, 1, 1, 1)
    filters = weight.numpy().reshape(4, -1)
    centred = filters - filters.mean(1, keepdims=True)
    expected = centred / (np.sqrt(filters.var(1, keepdims=True) + eps) + std_eps)
    ours = standardise(weight, eps=eps, std_eps=std_eps).flatten(1)
    torch.testing.assert_close(ours, torch.from_numpy(expected))


def test_gradients_reach_the_weights_behind_the_standard() -> None:
    conv = StdConv2d(2, 3, 3, eps=1e-6).double()
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)

    def output(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, x)

    assert torch.autograd.gradcheck(output, conv.weight)
    # Neither a shift nor a scale of a filter changes what it gives.
    torch.testing.assert_close(output(7 * conv.weight + 2), output(conv.weight), rtol=1e-4, atol=0)


def test_runs_under_autocast() -> None:
    conv, x = StdConv2d(4, 8, 3, 2), torch.randn(1, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    assert F.cosine_similarity(y.float().flatten(), conv(x).flatten(), dim=0) > 0.999
