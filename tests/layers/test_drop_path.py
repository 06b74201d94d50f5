import pytest
import torch

from vitkit.errors import ConfigError
from vitkit.layers.drop_path import DropPath, linear_rates


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_keeps_or_drops_whole_images(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2000, *shape, dtype=torch.float64)
    y = DropPath(0.3)(x)
    dropped = (y == 0).flatten(1).all(dim=1)
    assert 0.25 < dropped.double().mean().item() < 0.35  # 5 deviations of 0.0102
    torch.testing.assert_close(y[~dropped], x[~dropped] / 0.7)


def test_expectation_is_unchanged() -> None:
    torch.manual_seed(0)
    y = DropPath(0.2)(torch.ones(40_000, 1, dtype=torch.float64))
    assert abs(y.mean().item() - 1) < 5 * (0.2 / 0.8 / 40_000) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_keeps_the_type(dtype: torch.dtype) -> None:
    assert DropPath(0.5)(torch.ones(4, 2, dtype=dtype)).dtype == dtype


def test_identity_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(3, 2)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_rate_is_a_probability_below_one(rate: float) -> None:
    with pytest.raises(ConfigError, match=f"drop_path={rate} .* try 0.1"):
        DropPath(rate)


@pytest.mark.parametrize("depth", [1, 2, 12])
def test_rates_rise_linearly(depth: int) -> None:
    expected = [0.3 * block / max(depth - 1, 1) for block in range(depth)]
    assert linear_rates(0.3, depth) == pytest.approx(expected, abs=1e-15)
