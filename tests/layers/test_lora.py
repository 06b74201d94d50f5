import copy

import pytest
import torch
from torch import nn

from vitkit.errors import ConfigError
from vitkit.layers.lora import LoRALinear


def adapted(bias: bool = True) -> tuple[nn.Linear, LoRALinear]:
    """A plain layer, and the same with an adapter that has learned something."""
    torch.manual_seed(0)
    plain = nn.Linear(6, 10, bias=bias).double()
    layer = LoRALinear(copy.deepcopy(plain), rank=3, alpha=5.0)
    nn.init.normal_(layer.lora_b)
    return plain, layer


def test_a_new_adapter_changes_nothing() -> None:
    plain = nn.Linear(6, 10)
    x = torch.randn(2, 5, 6)
    assert torch.equal(LoRALinear(plain, 2, 16.0)(x), plain(x))


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_a_layer_of_the_papers_matrix(bias: bool) -> None:
    plain, layer = adapted(bias)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    matrix = plain.weight + 5.0 / 3 * layer.lora_b @ layer.lora_a
    expected = nn.functional.linear(x, matrix, plain.bias)
    torch.testing.assert_close(layer(x), expected)
    merged = layer.merged()
    assert type(merged) is nn.Linear
    assert merged.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(merged(x), expected)
    assert merged.weight is not layer.weight and (not bias or merged.bias is not layer.bias)


def test_only_the_adapter_learns() -> None:
    _, layer = adapted()
    layer(torch.randn(4, 6, dtype=torch.float64)).sum().backward()
    learned = {name for name, p in layer.named_parameters() if p.grad is not None}
    assert learned == {"lora_a", "lora_b"}
    assert layer.weight.grad is None and not layer.weight.requires_grad


def test_the_weights_are_those_that_were_given() -> None:
    plain = nn.Linear(4, 4)
    layer = LoRALinear(plain, 1, 1.0)
    assert layer.weight is plain.weight and layer.bias is plain.bias


def test_a_starts_within_its_bounds() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(64, 64), 32, 1.0)
    assert 0.12 < layer.lora_a.abs().max() <= 0.125
    assert layer.lora_a.std().item() == pytest.approx(0.125 / 3**0.5, rel=0.05)
    assert not layer.lora_b.any()


def test_type_and_mode_are_kept() -> None:
    layer = LoRALinear(nn.Linear(4, 4).bfloat16().eval(), 2, 1.0)
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
    assert not layer.training and not layer.merged().training


@pytest.mark.parametrize("rank", [0, 5, -1])
def test_a_rank_that_is_none(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"rank={rank} is not between 1 and the layer's width, 4"):
        LoRALinear(nn.Linear(4, 9), rank, 1.0)
