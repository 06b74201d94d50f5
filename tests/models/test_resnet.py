"""ResNets: what torchvision has, the paper's numbers, and what is refused."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from vitkit.errors import ConfigError
from vitkit.models.cost import cost
from vitkit.models.resnet import CONFIGS, ResNet, ResNetConfig

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
GMACS = {"resnet18": 1.8, "resnet34": 3.6, "resnet50": 3.8, "resnet101": 7.6, "resnet152": 11.3}


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_names_shapes_and_parameters(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = ResNet(CONFIGS[name]), torchvision.models.get_model(name)
    assert shapes(ours) == shapes(theirs)
    assert sum(parameter.numel() for parameter in ours.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_cost_is_the_papers(name: str) -> None:
    """Table 1, whose bottlenecks have their stride before the 3x3 convolution: ours cost more."""
    more = 1.1 if CONFIGS[name].block == "bottleneck" else 1.02
    assert GMACS[name] * 0.99 < cost(name).macs / 1e9 < GMACS[name] * more


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_matches_torchvision(block: Any) -> None:
    kind = BasicBlock if block == "basic" else Bottleneck
    torch.manual_seed(0)
    theirs = torchvision.models.ResNet(kind, [1, 2, 1, 1], num_classes=10).eval()
    for name, tensor in theirs.state_dict().items():
        if tensor.ndim == 1:  # norms' and biases
            nn.init.uniform_(tensor, 0.5, 1.5) if "var" in name else nn.init.normal_(tensor, 0.5)
    ours = ResNet(ResNetConfig(block=block, depths=(1, 2, 1, 1), num_classes=10)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 75, 102)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        with torch.inference_mode():
            expected, actual = theirs.to(dtype)(x.to(dtype)), ours.to(dtype)(x.to(dtype))
        assert expected.abs().max() > 0.1
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depths": (2, 2)}, r"depths=\(2, 2\) are not four stages; try \(2, 2, 2, 2\)"),
        ({"depths": (2, 0, 2, 2)}, "depths=0 is not between 1 and 1024"),
        ({"block": "wide"}, "block='wide' is unknown; choose basic or bottleneck"),
        ({"dim": 0}, "dim=0 is not between 1 and 65536"),
        ({"dim": 7}, "dim=7 is too narrow for a ResNet; try 8"),
        ({"dim": 16_384}, "dims=131072 is not between 1 and 65536"),
        ({"drop_path": 1.0}, "drop_path=1.0 is no probability"),
        ({"image_size": (0, 224)}, "image_size=0 is not between"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResNetConfig(**wrong)
