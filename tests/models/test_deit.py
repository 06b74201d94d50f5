"""DeiT against timm's; the variants without a distillation token are ViTs, and tested as such."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.models import find_config
from vitkit.models.deit import CONFIGS, DeiT, DeiTConfig
from vitkit.models.vit import ViT

Build = Callable[..., nn.Module]
Pair = Callable[[str, dict[str, Any], dict[str, Any]], tuple[nn.Module, nn.Module]]
TinyPair = Callable[..., tuple[nn.Module, nn.Module]]

SHARED = {"patch_size": 8, "num_classes": 7, "depth": 3, "num_heads": 4}
OUR_TINY = {**SHARED, "image_size": (32, 48), "dim": 32}
TIMM_TINY = {**SHARED, "img_size": (32, 48), "embed_dim": 32}
TINY = DeiTConfig(**OUR_TINY)
DISTILLED = "deit_base_distilled_patch16_224"

# Published, with 1000 classes.
PARAMETERS = {
    "deit_tiny_patch16_224": 5_717_416,
    "deit_small_patch16_224": 22_050_664,
    "deit_base_patch16_224": 86_567_656,
    "deit_tiny_distilled_patch16_224": 5_910_800,
    "deit_small_distilled_patch16_224": 22_436_432,
    "deit_base_distilled_patch16_224": 87_338_192,
    "deit_base_distilled_patch16_384": 87_630_032,
    "deit3_small_patch16_224": 22_059_496,
    "deit3_medium_patch16_224": 38_849_512,
    "deit3_base_patch16_224": 86_585_320,
    "deit3_large_patch16_224": 304_374_760,
    "deit3_huge_patch14_224": 632_126_440,
}


@pytest.fixture
def tiny_pair(pair: Pair) -> TinyPair:
    """Our tiny distilled model and timm's, in float64, with the same random weights."""

    def build(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
        model, reference = pair(DISTILLED, OUR_TINY | ours, TIMM_TINY | theirs)
        return model.double(), reference.double()

    return build


def gap(ours: Tensor, expected: Tensor) -> float:
    """Largest difference, as a part of the largest value expected."""
    assert ours.shape == expected.shape
    return ((ours - expected).abs().max() / expected.abs().max()).item()


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_count(name: str, our_model: Build, timm_model: Build) -> None:
    c, model = CONFIGS[name], our_model(name)
    patches = (c.image_size[0] // c.patch_size) * (c.image_size[1] // c.patch_size)
    d, k = c.dim, c.num_classes
    formula = (
        (3 * c.patch_size**2 * d + d)  # patch projection
        + d  # class token
        + (patches + c.prefix_positions) * d  # positions
        + c.depth * (12 * d**2 + 13 * d + 2 * d * (c.layer_scale is not None))  # blocks
        + 2 * d  # last norm
        + (k * d + k)  # head
    )
    if "distilled" in name:
        formula += d + d + (k * d + k)  # second token, its position, second head
    assert count(model) == formula == PARAMETERS.get(name, count(timm_model(name)))


def test_every_known_count_has_a_model() -> None:
    assert PARAMETERS.keys() <= CONFIGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_state_dict_is_timms(name: str, our_model: Build, timm_model: Build) -> None:
    ours, theirs = our_model(name).state_dict(), timm_model(name).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_only_distilled_models_have_the_second_token(name: str, our_model: Build) -> None:
    model, distilled = our_model(name), "distilled" in name
    assert isinstance(model, ViT) and isinstance(model, DeiT) is distilled
    assert model.config.num_prefix_tokens == 1 + distilled


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


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_matches_timm_created_at_another_size(name: str, pair: Pair) -> None:
    model, reference = pair(
        name, {"depth": 2, "image_size": (192, 256)}, {"depth": 2, "img_size": (192, 256)}
    )
    x = torch.randn(2, 3, 192, 256, dtype=torch.float64)
    assert gap(model.double()(x), reference.double()(x)) < 1e-9


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"qk_norm": True}, {"qk_norm": True}),
        ({"layer_scale": 0.1}, {"init_values": 0.1}),
        ({"in_channels": 1}, {"in_chans": 1}),
        ({"num_classes": 0}, {"num_classes": 0}),
    ],
    ids=str,
)
def test_options_match_timm(
    ours: dict[str, Any], theirs: dict[str, Any], tiny_pair: TinyPair
) -> None:
    model, reference = tiny_pair(ours, theirs)
    x = torch.randn(2, ours.get("in_channels", 3), 32, 48, dtype=torch.float64)
    features, expected = model.forward_features(x), reference.forward_features(x)
    assert features.shape == (2, 2 + 24, 32)
    assert gap(features, expected) < 1e-9
    assert gap(model(x), reference(x)) < 1e-9
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    assert gap(pooled, reference.forward_head(expected, pre_logits=True)) < 1e-9


@pytest.mark.parametrize("size", [(48, 32), (16, 96), (64, 80)])
def test_positions_follow_the_image(size: tuple[int, int], tiny_pair: TinyPair) -> None:
    model, reference = tiny_pair({}, {"dynamic_img_size": True})
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert gap(model(x), reference(x)) < 1e-9


def test_two_heads_are_timms_in_distilled_training(tiny_pair: TinyPair) -> None:
    model, reference = tiny_pair({}, {})
    reference.set_distilled_training(True)
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    ours, theirs = model.forward_heads(model.forward_features(x)), reference.train()(x)
    assert [gap(a, b) < 1e-9 for a, b in zip(ours, theirs, strict=True)] == [True, True]
    assert gap(ours[0], ours[1]) > 0.1  # the heads differ, so swapping them would show


@pytest.mark.parametrize("training", [False, True])
def test_prediction_is_the_mean_of_both_heads(training: bool) -> None:
    model = DeiT(TINY).double().train(training)
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    tokens = model.forward_features(x)
    logits = model.head(tokens[:, 0]), model.head_dist(tokens[:, 1])
    torch.testing.assert_close(model(x), sum(logits) / 2)


def test_gradients_match_timm(tiny_pair: TinyPair) -> None:
    model, reference = tiny_pair({}, {})
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    weights = torch.randn(2, 7, dtype=torch.float64)
    for m in (model, reference):
        (m(x) * weights).sum().backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-11, rtol=1e-9)


def test_registers_stand_after_the_distillation_token() -> None:
    model = DeiT(find_config(DISTILLED, **OUR_TINY, registers=3))
    class_token, dist_token, registers = model.prefix_tokens()
    assert class_token is model.cls_token and dist_token is model.dist_token
    assert registers is model.reg_token
    assert model.forward_features(torch.randn(1, 3, 32, 48)).shape == (1, 2 + 3 + 24, 32)
    assert model(torch.randn(1, 3, 32, 48)).shape == (1, 7)


def test_prefix_without_positions() -> None:
    """timm has no such distilled model: its table keeps rows for the prefix, and does not fit."""
    model = DeiT(find_config(DISTILLED, **OUR_TINY, prefix_positions=False)).double()
    patches = torch.randn(2, 4, 6, 32, dtype=torch.float64)
    assert model.pos_embed.shape == (1, 24, 32)
    class_token, dist_token, *others = model.embed(patches).unbind(1)
    assert torch.equal(class_token, model.cls_token[:, 0].expand(2, -1))
    assert torch.equal(dist_token, model.dist_token[:, 0].expand(2, -1))
    assert torch.equal(torch.stack(others, 1), patches.flatten(1, 2) + model.pos_embed)


def test_initial_weights_of_the_second_token_and_head() -> None:
    torch.manual_seed(0)
    model = DeiT(find_config(DISTILLED, depth=1))
    for tensor in (model.dist_token, model.head_dist.weight, model.head.weight):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.head_dist.bias.any()


def test_reset_classifier_replaces_both_heads() -> None:
    model, x = DeiT(TINY).double(), torch.randn(2, 3, 32, 48, dtype=torch.float64)
    model.reset_classifier(5)
    features = model.forward_features(x)
    assert [logits.shape for logits in model.forward_heads(features)] == [(2, 5), (2, 5)]
    assert model.num_classes == model.config.num_classes == 5
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), (features[:, 0] + features[:, 1]) / 2)


def test_no_weight_decay_is_timms(our_model: Build, timm_model: Build) -> None:
    ours, theirs = our_model(DISTILLED), timm_model(DISTILLED)
    names = dict(ours.named_parameters()).keys()
    assert ours.no_weight_decay() & names == theirs.no_weight_decay() & names
    assert "dist_token" in ours.no_weight_decay()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"pool": "mean"}, "pool=mean is not for a distilled model, .*; set pool=cls"),
        ({"pool": "attention"}, "pool=attention is not for a distilled model"),
        ({"class_token": False}, "pool=cls reads the class token"),
        ({"image_size": (225, 224)}, "image_size=225 is not a multiple of patch_size=16"),
    ],
    ids=str,
)
def test_bad_config(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DeiTConfig(**broken)
