"""Batch norm: torch's own, what it refuses, and statistics that are kept."""

import pytest
import torch
from torch import nn

from vitkit.errors import ConfigError
from vitkit.layers.norm import BatchNorm, kept_statistics


@pytest.mark.parametrize("training", [True, False])
def test_matches_torch(training: bool) -> None:
    ours, theirs = BatchNorm(4).train(training), nn.BatchNorm2d(4).train(training)
    for _ in range(3):
        x = torch.randn(2, 4, 3, 5)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_one_value_has_no_deviation() -> None:
    norm, x = BatchNorm(4), torch.randn(1, 4, 1, 1)
    with pytest.raises(ConfigError, match="one image with a map of 1x1; use batches of two"):
        norm(x)
    assert norm(x.repeat(2, 1, 1, 1)).shape == (2, 4, 1, 1)
    assert norm.eval()(x).shape == x.shape


def test_kept_statistics() -> None:
    model = nn.Sequential(BatchNorm(4), nn.Sequential(nn.BatchNorm2d(4)))
    model[1][0].momentum = 0.5
    model.append(nn.BatchNorm2d(4, momentum=None))  # the plain mean of all batches
    model.append(nn.BatchNorm2d(4, track_running_stats=False))
    x = torch.randn(3, 4, 2, 2) + 5
    expected = model(x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), kept_statistics(model):
        torch.testing.assert_close(model(x), expected)
        raise ZeroDivisionError
    torch.testing.assert_close(model.state_dict(), before)
    model(x + 3)
    counts = [b.item() for name, b in model.named_buffers() if name.endswith("tracked")]
    assert counts == [2, 2, 2]
    norm = model[0]
    assert (norm.momentum, model[1][0].momentum, model[2].momentum) == (0.1, 0.5, None)
    assert norm.running_mean.mean() > before["0.running_mean"].mean()
