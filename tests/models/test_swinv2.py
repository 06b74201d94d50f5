"""SwinV2 against timm's and torchvision's: names, parameters, results, gradients."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)

from vitkit.errors import ConfigError
from vitkit.layers.cosine_window import CosineWindowAttention
from vitkit.models import source
from vitkit.models.cost import cost
from vitkit.models.swinv2 import CONFIGS, PostNormBlock, SwinV2, SwinV2Config

TINY = "swinv2_tiny_window8_256"
ENLARGED = "swinv2_base_window12to16_192to256"
PARAMETERS = {"tiny": 28_347_154, "small": 49_728_418, "base": 87_918_816, "large": 196_739_932}
TOY = SwinV2Config(
    image_size=(64, 64),
    dim=8,
    depths=(2, 2),
    num_heads=(1, 2),
    window_size=6,
    pretrained_window_sizes=(0, 3),
    num_classes=5,
)
NARROW = {"depths": (1, 2, 2, 1), "num_heads": (1, 2, 4, 8), "num_classes": 10}


def pair(
    name: str, size: tuple[int, int] | None = None, **timm_args: Any
) -> tuple[SwinV2, nn.Module]:
    """timm's model, but 16 channels wide, with random numbers everywhere, and ours with the same.

    The scales are at, below and above the limit.
    """
    config = replace(CONFIGS[name], dim=16, **NARROW)
    config = replace(config, image_size=size or config.image_size)
    args = {"img_size": config.image_size, "embed_dim": 16, **NARROW, **timm_args}
    theirs = timm.create_model(name, **args).eval()
    torch.manual_seed(0)
    randomise(theirs)
    with torch.device("meta"):
        ours = SwinV2(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return ours, theirs


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.2 if parameter.ndim == 1 or "cpb_mlp.0" in name else 0.05)
        if name.endswith("logit_scale"):
            parameter.copy_(torch.linspace(2, 6, parameter.numel()).reshape(parameter.shape))
        elif "norm" in name and name.endswith("weight"):
            parameter += 1


def assert_equal_logits(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """To 1e-4 of the largest logit in float32 and 1e-9 in float64."""
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        with torch.inference_mode():
            expected = theirs.to(dtype)(x.to(dtype))
            actual = ours.to(dtype)(x.to(dtype))
        assert expected.abs().max() > 0.1
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_and_windows_are_timms(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = SwinV2(CONFIGS[name]), timm.create_model(name, num_classes=1000)
    shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    numbers = sum(parameter.numel() for parameter in ours.parameters())
    assert numbers == PARAMETERS[name.split("_")[1]]
    assert not list(ours.buffers())
    for stage, reference in zip(ours.layers, theirs.layers, strict=True):
        for block, expected in zip(stage.blocks, reference.blocks, strict=True):
            assert block.attn.window == block.window == expected.window_size
            assert block.shift == expected.shift_size
            known = expected.attn.pretrained_window_size
            assert block.attn.pretrained == (known if known[0] else expected.window_size)


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("swinv2_tiny_window8_256", 5.96),
        ("swinv2_small_window8_256", 11.58),
        ("swinv2_base_window8_256", 20.37),
    ],
)
def test_published_cost(name: str, gmacs: float) -> None:
    assert cost(name).macs / 1e9 == pytest.approx(gmacs, rel=0.01)
    assert source(name) == "arXiv:2111.09883"


@pytest.mark.parametrize("name", ["tiny_window8_256", "base_window12_192", "base_window16_256"])
def test_matches_timm(name: str) -> None:
    ours, theirs = pair(f"swinv2_{name}")
    assert_equal_logits(ours, theirs, torch.randn(1, 3, *ours.config.image_size))


@pytest.mark.parametrize("name", ["swinv2_base_window12to24_192to384", ENLARGED])
def test_matches_timm_with_windows_of_pretraining(name: str) -> None:
    ours, theirs = pair(name)
    x = torch.randn(1, 3, *ours.config.image_size)
    assert_equal_logits(ours, theirs, x)
    ours.layers[0].blocks[0].attn.pretrained = ours.layers[0].blocks[0].attn.window
    with torch.inference_mode():
        assert not torch.allclose(ours(x.double()), theirs(x.double()), rtol=1e-4)


@pytest.mark.parametrize("name", [TINY, ENLARGED])
@pytest.mark.parametrize("size", [(192, 288), (96, 160)])
def test_matches_timm_built_for_another_size(name: str, size: tuple[int, int]) -> None:
    ours, theirs = pair(name, size)
    height, width = size[0] // 32, size[1] // 32
    side = ours.config.window_size
    assert ours.layers[3].blocks[0].attn.window == (min(height, side), min(width, side))
    assert_equal_logits(ours, theirs, torch.randn(2, 3, *size))


@pytest.mark.parametrize("size", [(192, 256), (200, 230), (37, 61)])
def test_matches_timm_given_another_size(size: tuple[int, int]) -> None:
    ours, theirs = pair(TINY, strict_img_size=False)
    theirs.patch_embed.dynamic_img_pad = True
    assert_equal_logits(ours, theirs, torch.randn(1, 3, *size))


def test_gradients_match_timm() -> None:
    ours, theirs = pair(TINY, (96, 120), strict_img_size=False)
    x = torch.randn(2, 3, 96, 120, dtype=torch.float64)
    weights = torch.randn(2, 10, dtype=torch.float64)
    gradients = []
    for model in (ours.double(), theirs.double()):
        loss = (model(x) * weights).sum()
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients.append(dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)))
    for name, expected in gradients[1].items():
        assert expected.abs().max() > 0
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-8, atol=1e-10, msg=name)


def test_features_and_methods_match_timm() -> None:
    ours, theirs = pair(TINY, (64, 96))
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        features = ours.forward_features(x)
        assert features.shape == (2, 2, 3, 128)
        torch.testing.assert_close(features, theirs.forward_features(x), rtol=1e-4, atol=1e-4)
        pooled = ours.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, features.mean((1, 2)))
        torch.testing.assert_close(ours.forward_head(features), ours(x))
        ours.reset_classifier(10, "")
        assert ours.forward_head(features).shape == (2, 2, 3, 10)
    assert ours.no_weight_decay() == theirs.no_weight_decay()
    assert ours.num_features == theirs.num_features == 128
    assert ours.feature_info == list(theirs.feature_info)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"norm": True},
        {"indices": 2, "norm": True},
        {"indices": [0, -2], "stop_early": True},
        {"indices": [1, 3], "intermediates_only": True},
    ],
    ids=str,
)
@torch.inference_mode()
def test_intermediates_match_timm(how: dict[str, Any]) -> None:
    ours, theirs = (model.double() for model in pair(TINY, (64, 96)))
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    actual, expected = ours.forward_intermediates(x, **how), theirs.forward_intermediates(x, **how)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def torchvision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for torchvision's tensors."""
    ours = {}
    for name, tensor in state.items():
        name = re.sub(r"^features\.0\.", "patch_embed.", name)
        name = name.replace("patch_embed.0", "patch_embed.proj").replace("embed.2", "embed.norm")
        if found := re.match(r"features\.(\d+)\.", name):
            part, odd = divmod(int(found[1]), 2)
            place = f"layers.{part}." + ("blocks." if odd else "downsample.")
            name = place + name[found.end() :]
        name = re.sub(r"\.mlp\.([03])", lambda m: f".mlp.fc{1 + int(m[1]) // 3}", name)
        name = name.replace("head.", "head.fc.")
        if name.endswith("qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            ours[f"{stem}q_bias"], _, ours[f"{stem}v_bias"] = tensor.chunk(3)
        elif "relative_" not in name:
            ours[name] = tensor
    return ours


@torch.inference_mode()
def test_matches_torchvision() -> None:
    """Where windows fill every map; it pads before it rolls, and never makes a window smaller."""
    theirs = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=16,
        window_size=[8, 8],
        depths=[1, 2, 2, 1],
        num_heads=[1, 2, 4, 8],
        num_classes=10,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    ).eval()
    randomise(theirs)
    ours = SwinV2(replace(CONFIGS[TINY], dim=16, image_size=(256, 512), **NARROW)).eval()
    ours.load_state_dict(torchvision_names(theirs.state_dict()))
    assert_equal_logits(ours, theirs, torch.randn(1, 3, 256, 512))


def test_new_blocks_change_nothing() -> None:
    """Their norms start at zero, as in timm and in the authors' code."""
    model = SwinV2(TOY).eval()
    block = model.layers[1].blocks[1]
    assert isinstance(block, PostNormBlock)
    x = torch.randn(2, 8, 8, 16)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def test_initial_weights_are_as_timm_has_them() -> None:
    torch.manual_seed(0)
    ours = SwinV2(replace(CONFIGS[TINY], dim=16, **NARROW)).state_dict()
    theirs = timm.create_model(TINY, embed_dim=16, **NARROW).state_dict()
    for name, expected in theirs.items():
        if expected.unique().numel() == 1:  # zeros, ones, and the scales
            torch.testing.assert_close(ours[name], expected)
        else:
            assert ours[name].std().item() == pytest.approx(expected.std().item(), rel=0.25), name


def test_drop_path_rises_over_all_blocks() -> None:
    with torch.device("meta"):
        ours, theirs = SwinV2(CONFIGS[TINY]), timm.create_model(TINY, drop_path_rate=0.2)
    expected = [getattr(b.drop_path1, "drop_prob", 0) for s in theirs.layers for b in s.blocks]
    rates = [block.drop_path1.rate for stage in ours.layers for block in stage.blocks]
    assert rates == pytest.approx(expected)
    assert (
        CONFIGS[ENLARGED].drop_path == 0.2 and CONFIGS["swinv2_base_window8_256"].drop_path == 0.5
    )


def test_tap_sees_every_map_and_changes_nothing() -> None:
    model = SwinV2(TOY).eval()
    randomise(model)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(x)
        maps: list[Tensor] = []
        for module in model.modules():
            if isinstance(module, CosineWindowAttention):
                module.on_map = maps.append
        torch.testing.assert_close(model(x), expected)
    # 16 x 16 tokens pad to 3 x 3 windows of 36, 8 x 8 to 2 x 2; two blocks each.
    assert [tuple(m.shape) for m in maps] == [(18, 1, 36, 36)] * 2 + [(8, 2, 36, 36)] * 2
    for each in maps:
        torch.testing.assert_close(each.sum(-1), torch.ones(each.shape[:-1]))


def test_checkpointing_changes_no_gradient() -> None:
    model = SwinV2(replace(TOY, drop_path=0.0))
    randomise(model)
    x, gradients = torch.randn(2, 3, 64, 64), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        gradients.append(torch.autograd.grad(model(x).sum(), list(model.parameters())))
    torch.testing.assert_close(*gradients)


def test_exports_with_any_batch() -> None:
    model = SwinV2(TOY).eval()
    randomise(model)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    example = (torch.randn(2, 3, 64, 64),)
    program = torch.export.export(model, example, dynamic_shapes=(batch,), strict=False)
    x = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window_size": 0}, "window_size=0 is not between 1 and 65536"),
        (
            {"pretrained_window_sizes": (-1, 0, 0, 0)},
            "pretrained_window_sizes=-1 is not between 0 and 65536",
        ),
        (
            {"pretrained_window_sizes": (12,)},
            r"depths=\(2, 2, 6, 2\) and pretrained_window_sizes=\(12,\) differ in length; give one",
        ),
        ({"depths": (2, 2), "num_heads": (3, 6)}, "pretrained_window_sizes=.* differ in length"),
        ({"num_heads": (3, 6, 12, 20)}, "dim=768 of stage 3 is not .* of num_heads=20"),
        ({"drop_path": 1.0}, "drop_path=1.0 is no probability"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SwinV2Config(**wrong)
