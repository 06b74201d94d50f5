"""Swin against timm's: names, parameters, results, gradients, at any image size."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.drop_path import DropPath
from vitkit.layers.window import WindowAttention
from vitkit.models.swin import CONFIGS, Swin, SwinConfig

TINY = "swin_tiny_patch4_window7_224"
PARAMETERS = {
    "swin_tiny_patch4_window7_224": 28_288_354,
    "swin_small_patch4_window7_224": 49_606_258,
    "swin_base_patch4_window7_224": 87_768_224,
    "swin_base_patch4_window12_384": 87_903_584,
    "swin_large_patch4_window7_224": 196_532_476,
    "swin_large_patch4_window12_384": 196_735_516,
}
TOY = SwinConfig(image_size=(64, 64), dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=5)


def pair(
    name: str, depths: tuple[int, ...], size: tuple[int, int] | None = None, **timm_args: Any
) -> tuple[Swin, nn.Module]:
    """timm's model with random weights and biases everywhere, and ours with the same."""
    size = size or CONFIGS[name].image_size
    theirs = timm.create_model(
        name, img_size=size, depths=depths, num_classes=10, weight_init="skip", **timm_args
    ).eval()
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.05)
    with torch.device("meta"):
        ours = Swin(replace(CONFIGS[name], image_size=size, depths=depths, num_classes=10)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return ours, theirs


def assert_equal_logits(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """To 1e-4 of the largest logit in float32 and 1e-9 in float64."""
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        with torch.inference_mode():
            expected = theirs.to(dtype)(x.to(dtype))
            actual = ours.to(dtype)(x.to(dtype))
        assert expected.abs().max() > 0.1
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters(name: str) -> None:
    with torch.device("meta"):
        model = Swin(CONFIGS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_matches_timm(name: str) -> None:
    """A few blocks of every variant, at its own size and given 192x256."""
    depths = (1, 2, 2, 1) if CONFIGS[name].dim < 192 else (1, 2, 1, 1)
    ours, theirs = pair(name, depths, strict_img_size=False)
    for size in CONFIGS[name].image_size, (192, 256):
        assert_equal_logits(ours, theirs, torch.randn(1, 3, *size))


def test_matches_timm_built_for_another_size() -> None:
    ours, theirs = pair(TINY, depths=(2, 2, 2, 2), size=(192, 256))
    assert ours.layers[3].blocks[1].attn.window == (6, 7)
    assert ours.layers[3].blocks[1].shift == (0, 3)
    assert_equal_logits(ours, theirs, torch.randn(2, 3, 192, 256))


@pytest.mark.parametrize("size", [(200, 230), (37, 61)])
def test_pads_sides_that_are_no_multiple_of_patch_and_window(size: tuple[int, int]) -> None:
    ours, theirs = pair(TINY, depths=(2, 2, 2, 2), strict_img_size=False)
    theirs.patch_embed.dynamic_img_pad = True
    assert_equal_logits(ours, theirs, torch.randn(1, 3, *size))


def test_gradients_match_timm() -> None:
    ours, theirs = pair(TINY, depths=(2, 2, 1, 1), strict_img_size=False)
    x = torch.randn(2, 3, 96, 120, dtype=torch.float64)
    weights = torch.randn(2, 10, dtype=torch.float64)
    gradients = []
    for model in (ours.double(), theirs.double()):
        loss = (model(x) * weights).sum()
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients.append(dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)))
    for name, expected in gradients[1].items():
        assert expected.abs().max() > 0
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-9, atol=1e-12, msg=name)


def test_features_and_methods_match_timm() -> None:
    ours, theirs = pair(TINY, depths=(1, 1, 1, 1), strict_img_size=False)
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        features = ours.forward_features(x)
        assert features.shape == (2, 2, 3, 768)
        torch.testing.assert_close(features, theirs.forward_features(x), rtol=1e-4, atol=1e-4)
        pooled = ours.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, features.mean((1, 2)))
        torch.testing.assert_close(ours.forward_head(features), ours(x))
    assert ours.no_weight_decay() == theirs.no_weight_decay()
    assert ours.num_features == theirs.num_features


def test_reset_classifier() -> None:
    model = Swin(TOY).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    pooled = model.forward_head(model.eval().forward_features(x), pre_logits=True)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.num_classes == model.config.num_classes == 7
    assert model.head.fc.bias.abs().max() == 0
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    assert not [name for name in model.state_dict() if name.startswith("head")]


def test_initial_weights_are_as_timm_has_them() -> None:
    torch.manual_seed(0)
    ours = Swin(replace(CONFIGS[TINY], depths=(1, 1, 1, 1))).state_dict()
    theirs = timm.create_model(TINY, depths=(1, 1, 1, 1)).state_dict()
    for name, expected in theirs.items():
        if expected.unique().numel() == 1:  # zeros and ones
            torch.testing.assert_close(ours[name], expected)
        else:
            assert ours[name].std().item() == pytest.approx(expected.std().item(), rel=0.25), name


def test_drop_path_rises_over_all_blocks() -> None:
    theirs = timm.create_model(TINY, drop_path_rate=0.2)
    expected = [getattr(b.drop_path1, "drop_prob", 0) for s in theirs.layers for b in s.blocks]
    with torch.device("meta"):
        ours = Swin(CONFIGS[TINY])
    modules = [m for name, m in ours.named_modules() if name.endswith("drop_path1")]
    assert all(isinstance(m, DropPath) for m in modules)
    assert [m.rate for m in modules] == pytest.approx(expected)


def test_tap_sees_every_map_and_changes_nothing() -> None:
    torch.manual_seed(0)
    model = Swin(TOY).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(x)
        maps: list[Tensor] = []
        for module in model.modules():
            if isinstance(module, WindowAttention):
                module.on_map = maps.append
        torch.testing.assert_close(model(x), expected)
    # 16 x 16 tokens pad to 3 x 3 windows of 49, 8 x 8 to 2 x 2; two blocks each.
    assert [tuple(m.shape) for m in maps] == [(18, 1, 49, 49)] * 2 + [(8, 2, 49, 49)] * 2
    for each in maps:
        torch.testing.assert_close(each.sum(-1), torch.ones(each.shape[:-1]))
    assert maps[1][8, 0].min() < 1e-40  # masked pairs of the last window of a shifted block


def test_windows_score_64_times_fewer_pairs() -> None:
    model = Swin(replace(CONFIGS[TINY], depths=(1,), num_heads=(3,))).eval()
    maps: list[Tensor] = []
    model.layers[0].blocks[0].attn.on_map = maps.append
    with torch.inference_mode():
        model(torch.randn(1, 3, 224, 224))
    pairs = maps[0][:, 0].numel()
    assert pairs == 64 * 49**2 == 153_664
    assert 64 * pairs == (56 * 56) ** 2 == 9_834_496


def test_exports_with_any_batch() -> None:
    model = Swin(TOY).eval()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=(batch,))
    x = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window_size": 0}, "window_size=0 is not between 1 and 65536"),
        ({"image_size": (0, 224)}, "image_size=0 is not between 1 and 65536"),
        ({"depths": (2, 2)}, r"depths=\(2, 2\) and num_heads=\(3, 6, 12, 24\) differ in length"),
        (
            {"num_heads": (3, 6, 12, 20)},
            "dim=768 of stage 3 is not .* of num_heads=20; try num_heads=16",
        ),
        ({"num_classes": -1}, "num_classes=-1 is not between"),
        ({"image_size": (224,)}, r"image_size=\(224,\) is not \(height, width\)"),
        ({"depths": (2, 0, 2, 2)}, "depths=0 is not between 1 and 1024"),
        ({"depths": (2, -1, 2, 2)}, "depths=-1 is not between 1 and 1024"),
        ({"num_heads": (3, 0, 12, 24)}, "num_heads=0 is not between 1 and 65536"),
        ({"mlp_ratio": 0.0}, "mlp_ratio=0.0 leaves the MLP no width; try 4"),
        ({"mlp_ratio": -1.0}, "mlp_ratio=-1.0 is not between 0 and 1024"),
        ({"depths": (1,) * 12, "num_heads": (1,) * 12}, "dims=98304 is not between"),
        ({"drop_path": 1.0}, "drop_path=1.0 is no probability"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SwinConfig(**wrong)
