"""Plain ViTs against timm's: the same tensors by the same names give the same results."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.attention import Attention
from vitkit.layers.drop_path import DropPath
from vitkit.models import vit
from vitkit.models.vit import CONFIGS, Block, ViT, ViTConfig

SHARED = {"patch_size": 8, "num_classes": 7, "depth": 3, "num_heads": 4}
OUR_TINY = {**SHARED, "image_size": (32, 48), "dim": 32}
TIMM_TINY = {**SHARED, "img_size": (32, 48), "embed_dim": 32}
TINY = ViTConfig(**OUR_TINY)
B16 = "vit_base_patch16_224"

# Published, with 1000 classes.
PARAMETERS = {
    "vit_tiny_patch16_224": 5_717_416,
    "vit_small_patch16_224": 22_050_664,
    "vit_small_patch32_224": 22_878_952,
    "vit_base_patch16_224": 86_567_656,
    "vit_base_patch16_384": 86_859_496,
    "vit_base_patch32_224": 88_224_232,
    "vit_large_patch16_224": 304_326_632,
    "vit_large_patch32_224": 306_535_400,
    "vit_huge_patch14_224": 632_045_800,
}


Build = Callable[..., nn.Module]
Pair = Callable[[str, dict[str, Any], dict[str, Any]], tuple[nn.Module, nn.Module]]
TinyPair = Callable[..., tuple[nn.Module, nn.Module]]


def gap(ours: Tensor, expected: Tensor) -> float:
    """Largest difference, as a part of the largest value expected."""
    assert ours.shape == expected.shape
    return ((ours - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def tiny_pair(pair: Pair) -> TinyPair:
    """Our tiny ViT and timm's with an option, in float64, with the same random weights."""

    def build(option: str, **timm_settings: Any) -> tuple[nn.Module, nn.Module]:
        ours, theirs = OPTIONS[option]
        model, reference = pair(B16, OUR_TINY | ours, TIMM_TINY | theirs | timm_settings)
        return model.double(), reference.double()

    return build


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_count(name: str, our_model: Build, timm_model: Build) -> None:
    c, model = CONFIGS[name], our_model(name)
    patches = (c.image_size[0] // c.patch_size) * (c.image_size[1] // c.patch_size)
    d, k = c.dim, c.num_classes
    formula = (
        (3 * c.patch_size**2 * d + d)  # patch projection
        + (1 + c.registers) * d  # class token and registers
        + (patches + (1 + c.registers) * c.prefix_positions) * d  # positions
        + c.depth * (12 * d**2 + 13 * d + 2 * d * (c.layer_scale is not None))  # blocks
        + 2 * d  # last norm
        + (k * d + k)  # head
    )
    assert count(model) == formula == PARAMETERS.get(name, count(timm_model(name)))


def test_every_known_count_has_a_model() -> None:
    assert PARAMETERS.keys() <= CONFIGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_state_dict_is_timms(name: str, our_model: Build, timm_model: Build) -> None:
    ours, theirs = our_model(name).state_dict(), timm_model(name).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@torch.inference_mode()
@pytest.mark.parametrize("name", CONFIGS)
def test_matches_timm(name: str, pair: Pair) -> None:
    """The first blocks of every variant, at its own size and at 192x256: positions are resized."""
    depth = 2 if CONFIGS[name].dim < 1024 and max(CONFIGS[name].grid) <= 24 else 1  # big: slow
    padded = {"dynamic_img_size": True, "dynamic_img_pad": True}
    model, reference = pair(name, {"depth": depth}, {"depth": depth, **padded})
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        model, reference = model.to(dtype), reference.to(dtype)
        for size in CONFIGS[name].image_size, (192, 256):
            x = torch.randn(1, 3, *size, dtype=dtype)
            assert gap(model(x), reference(x)) < tolerance


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch32_384"])
def test_matches_timm_created_at_another_size(name: str, pair: Pair) -> None:
    model, reference = pair(
        name, {"depth": 2, "image_size": (192, 256)}, {"depth": 2, "img_size": (192, 256)}
    )
    x = torch.randn(2, 3, 192, 256, dtype=torch.float64)
    assert gap(model.double()(x), reference.double()(x)) < 1e-9


def test_pads_sides_that_are_no_multiple_of_the_patch(pair: Pair) -> None:
    model, reference = pair(
        "vit_tiny_patch16_224",
        {"depth": 1},
        {"depth": 1, "dynamic_img_size": True, "dynamic_img_pad": True},
    )
    x = torch.randn(1, 3, 75, 130)
    assert gap(model(x), reference(x)) < 1e-4


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "mean": ({"pool": "mean"}, {"global_pool": "avg"}),
    "attention": ({"pool": "attention"}, {"global_pool": "map"}),
    "no class token": (
        {"pool": "mean", "class_token": False},
        {"global_pool": "avg", "class_token": False},
    ),
    "registers": ({"registers": 4}, {"reg_tokens": 4}),
    "registers, mean": ({"registers": 4, "pool": "mean"}, {"reg_tokens": 4, "global_pool": "avg"}),
    "registers, attention": (
        {"registers": 4, "pool": "attention"},
        {"reg_tokens": 4, "global_pool": "map"},
    ),
    "registers alone": (
        {"registers": 2, "pool": "attention", "class_token": False, "prefix_positions": False},
        {"reg_tokens": 2, "global_pool": "map", "class_token": False, "no_embed_class": True},
    ),
    "prefix without positions": ({"prefix_positions": False}, {"no_embed_class": True}),
    "prefix without positions, registers": (
        {"prefix_positions": False, "registers": 3},
        {"no_embed_class": True, "reg_tokens": 3},
    ),
    "no positions": ({"position": "none"}, {"pos_embed": "none"}),
    "qk norm": ({"qk_norm": True}, {"qk_norm": True}),
    "layer scale": ({"layer_scale": 1e-4}, {"init_values": 1e-4}),
    "wide mlp": ({"mlp_ratio": 2.7}, {"mlp_ratio": 2.7}),
    "grey": ({"in_channels": 1}, {"in_chans": 1}),
    "no head": ({"num_classes": 0}, {"num_classes": 0}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_match_timm(option: str, tiny_pair: TinyPair) -> None:
    model, reference = tiny_pair(option)
    x = torch.randn(2, model.config.in_channels, 32, 48, dtype=torch.float64)
    features, expected = model.forward_features(x), reference.forward_features(x)
    assert features.shape == (2, model.config.num_prefix_tokens + 24, 32)
    assert gap(features, expected) < 1e-9
    assert gap(model.forward_head(features), reference.forward_head(expected)) < 1e-9
    assert gap(model(x), reference(x)) < 1e-9
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    assert gap(pooled, reference.forward_head(expected, pre_logits=True)) < 1e-9
    names = dict(model.named_parameters()).keys()
    assert model.no_weight_decay() & names == reference.no_weight_decay() & names


@pytest.mark.parametrize("option", ["registers", "prefix without positions, registers"])
@pytest.mark.parametrize("size", [(48, 32), (16, 96), (64, 80)])
def test_positions_follow_the_image(
    option: str, size: tuple[int, int], tiny_pair: TinyPair
) -> None:
    """48x32 and 16x96 have as many patches as the native 32x48, on another grid."""
    model, reference = tiny_pair(option, dynamic_img_size=True)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert gap(model(x), reference(x)) < 1e-9


@pytest.mark.parametrize("option", ["plain", "attention", "registers, mean"])
def test_gradients_match_timm(option: str, tiny_pair: TinyPair) -> None:
    model, reference = tiny_pair(option)
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    weights = torch.randn(2, 7, dtype=torch.float64)
    for m in (model, reference):
        (m(x) * weights).sum().backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-11, rtol=1e-9)


def test_drop_path_rates_are_timms(timm_model: Build) -> None:
    model = ViT(replace(TINY, drop_path=0.3, depth=5))
    theirs = timm_model(B16, **TIMM_TINY | {"depth": 5, "drop_path_rate": 0.3})
    for ours, block in zip(model.blocks, theirs.blocks, strict=True):
        for name in ("drop_path1", "drop_path2"):
            rate = getattr(getattr(block, name), "drop_prob", 0.0)  # timm: no module at rate 0
            assert getattr(ours, name).rate == pytest.approx(rate, abs=1e-7)
    assert [m.rate for m in model.modules() if isinstance(m, DropPath)][-1] == 0.3


def test_dropout_stands_where_the_paper_puts_it() -> None:
    """After positions and after every linear layer but qkv (arXiv:2010.11929, appendix B.1)."""
    model = ViT(replace(TINY, depth=2, dropout=0.1, attention_dropout=0.2))
    found = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    in_a_block = ("attn.proj_drop", "mlp.drop1", "mlp.drop2")
    blocks = {f"blocks.{i}.{name}": 0.1 for i in range(2) for name in in_a_block}
    assert found == {"pos_drop": 0.1, **blocks}
    maps = [m.attention_dropout for m in model.modules() if isinstance(m, Attention)]
    assert maps == [0.2, 0.2]


def test_dropout_modules_are_all_called() -> None:
    model, called = ViT(replace(TINY, dropout=0.1)), []
    dropouts = [name for name, m in model.named_modules() if isinstance(m, nn.Dropout)]
    for name in dropouts:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    model(torch.randn(1, 3, 32, 48))
    assert sorted(called) == sorted(dropouts) and len(dropouts) == 1 + 3 * 3


def test_block_is_the_papers_equations() -> None:
    block = Block(TINY, drop_path=0.0).double()
    z = torch.randn(2, 5, 32, dtype=torch.float64)
    after_attention = block.attn(block.norm1(z)) + z  # eq. 2
    expected = block.mlp(block.norm2(after_attention)) + after_attention  # eq. 3
    torch.testing.assert_close(block(z), expected)


@pytest.mark.parametrize("position", ["sincos_1d", "sincos_2d"])
@pytest.mark.parametrize("prefix_positions", [True, False])
def test_fixed_positions_are_no_parameters(position: str, prefix_positions: bool) -> None:
    model = ViT(replace(TINY, position=position, registers=2, prefix_positions=prefix_positions))
    table = model.pos_embed
    assert table is not None and "pos_embed" not in dict(model.named_parameters())
    prefix = 3 if prefix_positions else 0
    assert table.shape == (1, prefix + 24, 32) and not table[:, :prefix].any()
    fixed = vit.sincos_1d(24, 32) if position == "sincos_1d" else vit.sincos_2d((4, 6), 32)
    assert torch.equal(table[0, prefix:], fixed)
    assert "pos_embed" in model.state_dict()  # so that timm reads the checkpoint
    assert model(torch.randn(1, 3, 32, 48)).shape == (1, 7)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = ViT(replace(TINY, dim=128, registers=2, layer_scale=1e-5))
    assert model.pos_embed is not None and 0.019 < model.pos_embed.std().item() < 0.021
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), name
            assert not module.bias.any(), name
    for token in (model.cls_token, model.reg_token):
        assert token is not None and 0 < token.abs().max().item() < 1e-5
    assert (model.blocks[0].ls1.gamma == 1e-5).all()


def test_reset_classifier() -> None:
    model = ViT(TINY).double()
    before, x = model.head.weight, torch.randn(2, 3, 32, 48, dtype=torch.float64)
    model.reset_classifier(5)
    assert model.head.weight.dtype == before.dtype and model(x).shape == (2, 5)
    assert model.num_classes == model.config.num_classes == 5
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert not model.head.bias.any()
    model.reset_classifier(0)
    features = model.forward_features(x)
    assert torch.equal(model(x), features[:, 0]) and model.num_classes == 0
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)


def test_reset_classifier_refuses_a_negative_number() -> None:
    with pytest.raises(ConfigError, match="num_classes=-1 is not between 0 and"):
        ViT(TINY).reset_classifier(-1)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"image_size": (225, 224)}, "image_size=225 is not a multiple .*=16; try 224 or 240"),
        ({"image_size": (224, 8)}, "image_size=8 is not a multiple of .*; try 16 or 32"),
        ({"image_size": (224,)}, r"image_size=\(224,\) is not \(height, width\)"),
        ({"image_size": (0, 224)}, "image_size=0 is not between 1 and 65536"),
        ({"image_size": (-224, 224)}, "image_size=-224 is not between 1 and"),
        ({"patch_size": 0}, "patch_size=0 is not between 1 and 65536"),
        ({"in_channels": 0}, "in_channels=0 is not between 1 and 4096"),
        ({"dim": -8}, "dim=-8 is not between 1 and 65536"),
        ({"depth": 0}, "depth=0 is not between 1 and 1024"),
        ({"depth": 10**9}, "depth=1000000000 is not between"),
        ({"dim": 2**17}, "dim=131072 is not between"),
        ({"image_size": (2**17, 224)}, "image_size=131072 is not between"),
        ({"norm_eps": 0.0}, "norm_eps=0.0 is not between 1e-12 and 1"),
        ({"norm_eps": float("nan")}, "norm_eps=nan is not between"),
        ({"layer_scale": float("inf")}, "layer_scale=inf is not between"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio=nan is not between 0 and 1024"),
        ({"num_heads": 5}, "dim=768 is not a multiple of num_heads=5; try num_heads=4"),
        ({"num_heads": 0}, "num_heads=0 is not between 1 and 65536"),
        ({"num_classes": -1}, "num_classes=-1 is not between 0 and 16777216"),
        ({"registers": -1}, "registers=-1 is not between 0 and"),
        ({"mlp_ratio": 0.0}, "mlp_ratio=0.0 leaves the MLP no width; try 4"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability below 1"),
        ({"attention_dropout": -0.1}, "attention_dropout=-0.1 is no probability"),
        ({"drop_path": 1.5}, "drop_path=1.5 is no probability"),
        ({"pool": "max"}, "pool='max' is unknown; choose cls, mean, cls_mean or attention"),
        ({"position": "rope"}, "position='rope' is unknown; choose learned, sincos_1d"),
        ({"class_token": False}, "pool=cls reads the class token; set class_token=true or pool=m"),
    ],
    ids=str,
)
def test_bad_config(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ViTConfig(**broken)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"dim": 30, "num_heads": 3, "position": "sincos_2d"}, "dim=30 is not a multiple of 4"),
        ({"dim": 33, "num_heads": 3, "position": "sincos_1d"}, "dim=33 is odd"),
    ],
    ids=str,
)
def test_bad_width(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ViT(ViTConfig(**broken))
