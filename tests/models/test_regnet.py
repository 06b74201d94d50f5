"""RegNetY: widths and depths by the paper's rule, torchvision's models, and what is refused."""

import re
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.regnet import BlockParams

from vitkit.errors import ConfigError
from vitkit.models.cost import cost
from vitkit.models.regnet import CONFIGS, RegNet, RegNetConfig

# Depths, widths, and billions of multiply-accumulates, as published with the paper.
PUBLISHED = {
    "regnety_002": ((1, 1, 4, 7), (24, 56, 152, 368), 0.2),
    "regnety_004": ((1, 3, 6, 6), (48, 104, 208, 440), 0.4),
    "regnety_006": ((1, 3, 7, 4), (48, 112, 256, 608), 0.6),
    "regnety_008": ((1, 3, 8, 2), (64, 128, 320, 768), 0.8),
    "regnety_016": ((2, 6, 17, 2), (48, 120, 336, 888), 1.6),
    "regnety_032": ((2, 5, 13, 1), (72, 216, 576, 1512), 3.2),
    "regnety_040": ((2, 6, 12, 2), (128, 192, 512, 1088), 4.0),
    "regnety_064": ((2, 7, 14, 2), (144, 288, 576, 1296), 6.4),
    "regnety_080": ((2, 4, 10, 1), (168, 448, 896, 2016), 8.0),
    "regnety_120": ((2, 5, 11, 1), (224, 448, 896, 2240), 12.1),
    "regnety_160": ((2, 4, 11, 1), (224, 448, 1232, 3024), 15.9),
    "regnety_320": ((2, 5, 12, 1), (232, 696, 1392, 3712), 32.3),
}
PARAMETERS = {"regnety_004": 4_344_144, "regnety_040": 20_646_656, "regnety_160": 83_590_140}
TORCHVISION = {
    "regnet_y_400mf": "regnety_004",
    "regnet_y_800mf": "regnety_008_tv",
    "regnet_y_1_6gf": "regnety_016",
    "regnet_y_3_2gf": "regnety_032",
    "regnet_y_8gf": "regnety_080_tv",
    "regnet_y_16gf": "regnety_160",
    "regnet_y_32gf": "regnety_320",
}
PARTS = {"f.a.0": "conv1.conv", "f.a.1": "conv1.bn", "f.b.0": "conv2.conv", "f.b.1": "conv2.bn"} | {
    "f.c.0": "conv3.conv", "f.c.1": "conv3.bn", "f.se.fc1": "se.fc1", "f.se.fc2": "se.fc2"
} | {"proj.0": "downsample.conv", "proj.1": "downsample.bn"}  # fmt: skip


def timms(name: str) -> str:
    """timm's name of a tensor of torchvision's."""
    ends = {"stem.0": "stem.conv", "stem.1": "stem.bn", "fc": "head.fc"}
    module, _, tensor = name.rpartition(".")
    found = re.fullmatch(r"trunk_output\.block(\d)\.block\d-(\d+)\.(.+)", module)
    if found is None:
        return f"{ends[module]}.{tensor}"
    return f"s{found[1]}.b{int(found[2]) + 1}.{PARTS[found[3]]}.{tensor}"


def named(model: nn.Module) -> dict[str, Tensor]:
    return {timms(name): tensor for name, tensor in model.state_dict().items()}


@pytest.fixture
def numbers_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision reckons widths with tensors, which must hold something on the meta device too."""
    reckon = BlockParams.from_init_params

    def on_cpu(**settings: Any) -> BlockParams:
        with torch.device("cpu"):
            return reckon(**settings)

    monkeypatch.setattr(BlockParams, "from_init_params", on_cpu)


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rule_gives_the_published_numbers(name: str) -> None:
    depths, dims, gmacs = PUBLISHED[name]
    config = CONFIGS[name]
    assert (config.depths, config.dims) == (depths, dims)
    assert sum(depths) == config.depth
    assert all(dim % group == 0 for dim, group in zip(dims, config.group_widths, strict=True))
    assert cost(name).macs / 1e9 == pytest.approx(gmacs, rel=0.03)


@pytest.mark.parametrize("name", CONFIGS)
def test_names_shapes_and_parameters(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = RegNet(CONFIGS[name]), timm.create_model(name)
    assert shapes(ours.state_dict()) == shapes(theirs.state_dict())
    count = sum(parameter.numel() for parameter in ours.parameters())
    assert count == PARAMETERS.get(name, count)


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_of_torchvision(name: str, numbers_on_cpu: None) -> None:
    with torch.device("meta"):
        ours, theirs = RegNet(CONFIGS[TORCHVISION[name]]), torchvision.models.get_model(name)
    assert shapes(ours.state_dict()) == shapes(named(theirs))


@pytest.mark.parametrize("name", ["regnet_y_400mf", "regnet_y_800mf"])
def test_matches_torchvision(name: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name).eval()
    for key, tensor in theirs.state_dict().items():
        if tensor.ndim == 1:  # norms' and biases
            nn.init.uniform_(tensor, 0.5, 1.5) if "var" in key else nn.init.normal_(tensor, 0.5)
    ours = RegNet(CONFIGS[TORCHVISION[name]]).eval()
    ours.load_state_dict(named(theirs), strict=True)
    x = torch.randn(1, 3, 75, 102)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        with torch.inference_mode():
            expected, actual = theirs.to(dtype)(x.to(dtype)), ours.to(dtype)(x.to(dtype))
        assert expected.abs().max() > 0.1
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_groups_are_no_wider_than_the_map() -> None:
    config = RegNetConfig(depth=4, w0=8, wa=13.6, wm=2.0, group_width=16)
    assert (config.depths, config.dims) == ((1, 1, 1, 1), (8, 16, 32, 64))
    assert config.group_widths == (8, 16, 16, 16)
    model = RegNet(config)
    stages = (model.s1, model.s2, model.s3, model.s4)
    assert [stage.b1.conv2.conv.groups for stage in stages] == [1, 1, 2, 4]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"w0": 100}, "w0=100 is not a multiple of 8; try 104"),
        ({"w0": 0}, "w0=0 is not between 8 and 65536"),
        ({"wa": -1.0}, "wa=-1.0 is not between 0 and 65536"),
        ({"wm": 1.0}, "wm=1.0 is not between 1.01 and 1024"),
        ({"wm": float("nan")}, "wm=nan is not between"),
        ({"depth": 10**9}, "depth=1000000000 is not between 1 and 1024"),
        ({"depth": 3}, "and depth=3 make 2 stages, not four; try depth=22, w0=96"),
        ({"wa": 0.0}, "wa=0.0, wm=2.24 and depth=22 make 1 stages, not four"),
        ({"wa": 65_536.0}, "dims=.* is not between 1 and 65536"),
        ({"group_width": 0}, "group_width=0 is not between 1 and 65536"),
        ({"rounding": "up"}, "rounding='up' is unknown; choose nearest or torchvision"),
        ({"drop_path": -0.1}, "drop_path=-0.1 is no probability"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RegNetConfig(**wrong)
