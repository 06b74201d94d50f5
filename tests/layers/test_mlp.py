import math

import torch
from torch import nn

from vitkit.layers.mlp import Mlp


def test_formula() -> None:
    ours = Mlp(6, 10).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    hidden = x @ ours.fc1.weight.T + ours.fc1.bias  # (2, 3, 10)
    gelu = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2  # exact, not the tanh form
    torch.testing.assert_close(ours(x), gelu @ ours.fc2.weight.T + ours.fc2.bias)


def test_dropout_follows_each_layer() -> None:
    ours = Mlp(4, 400, dropout=0.25)
    nn.init.zeros_(ours.fc1.weight)
    nn.init.ones_(ours.fc1.bias)
    torch.manual_seed(0)
    seen: list[torch.Tensor] = []
    ours.fc2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    y = ours(torch.zeros(1000, 4))
    for dropped in (seen[0], y):
        assert abs((dropped == 0).double().mean().item() - 0.25) < 0.03
    kept = seen[0][seen[0] != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 0.8413447 / 0.75))  # gelu(1) / keep
    ours.eval()
    assert torch.equal(ours(torch.zeros(1, 4)), ours(torch.zeros(1, 4)))
