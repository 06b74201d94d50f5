"""The textbook CNN against the same layers written with torch alone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vitkit.errors import ConfigError
from vitkit.models import create_model
from vitkit.models.convnet import ConvNet, ConvNetConfig


def test_parameters_by_hand() -> None:
    model = create_model("convnet_3_32", num_classes=10)
    convolutions = (9 * 3 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 128
    assert sum(p.numel() for p in model.parameters()) == convolutions + 129 * 10 == 94_538


@pytest.mark.parametrize("size", [(32, 32), (48, 40), (21, 3), (1, 1)], ids=str)
def test_matches_the_textbook(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = ConvNet(ConvNetConfig(num_classes=4)).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    state = {name: tensor + torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    expected, maps = x, []
    for i in range(3):
        weight, bias = state[f"convs.{i}.conv.weight"], state[f"convs.{i}.conv.bias"]
        expected = F.relu(F.conv2d(expected, weight, bias, padding=1))
        down, across = expected.shape[2] % 2, expected.shape[3] % 2
        expected = F.max_pool2d(F.pad(expected, (0, across, 0, down)), 2)  # beside ReLU, 0 is least
        maps.append(expected)
    last, taken = model.forward_intermediates(x)
    torch.testing.assert_close(last, maps[-1])
    torch.testing.assert_close(taken, maps)
    assert [each.shape[1] for each in taken] == [info["num_chs"] for info in model.feature_info]
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8]
    logits = F.linear(maps[-1].mean(dim=(2, 3)), state["head.weight"], state["head.bias"])
    torch.testing.assert_close(model(x), logits)


def test_any_number_of_layers() -> None:
    model = create_model("convnet_3_32", dims=(8, 16), in_channels=1, num_classes=0)
    assert model(torch.randn(2, 1, 9, 9)).shape == (2, 16)
    assert len(model.feature_info) == 2


def test_exports_with_any_batch() -> None:
    model = create_model("convnet_3_32", num_classes=3).eval()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    x = torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (x,), dynamic_shapes=(batch,), strict=False)
    x = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dims": ()}, r"dims=\(\) leaves no convolution; try \(32, 64, 128\)"),
        ({"dims": (32, 0)}, "dims=0 is not between 1 and 65536"),
        ({"in_channels": 0}, "in_channels=0 is not between"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConvNetConfig(**wrong)
