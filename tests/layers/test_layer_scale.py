import pytest
import torch

from vitkit.layers.layer_scale import LayerScale


def test_multiplies_each_channel() -> None:
    layer = LayerScale(3, 1e-4).double()
    assert layer.gamma.tolist() == pytest.approx([1e-4] * 3)
    with torch.no_grad():
        layer.gamma.copy_(torch.tensor([1.0, 2.0, -3.0]))
    y = layer(torch.ones(2, 5, 3, dtype=torch.float64))
    assert (y == torch.tensor([1.0, 2.0, -3.0])).all()


def test_a_whole_number_is_a_gain_too() -> None:
    assert LayerScale(2, 1).gamma.dtype == torch.get_default_dtype()


def test_gain_is_learned() -> None:
    layer = LayerScale(2, 1.0)
    layer(torch.tensor([[2.0, 3.0], [5.0, 7.0]])).sum().backward()
    assert layer.gamma.grad is not None and layer.gamma.grad.tolist() == [7.0, 10.0]
