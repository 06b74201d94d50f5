"""Hybrids against timm's, torchvision's ResNet and convolutional stem, and Google's formulas."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import HybridEmbed
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import StdConv2dSame
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.models.vision_transformer import ConvStemConfig

from vitkit.errors import ConfigError
from vitkit.layers.stem import stem_strides
from vitkit.models import create_model
from vitkit.models.hybrid import CONFIGS, EPSILONS, Hybrid, HybridConfig
from vitkit.models.resnet import ResNet
from vitkit.models.vit import ViT, ViTConfig

TINY = HybridConfig(
    image_size=(64, 96), depths=(1, 2), patch_size=16, dim=32, depth=3, num_heads=4, num_classes=7
)
TINY_RESNET = replace(
    TINY, backbone="resnet", depths=(1, 1, 1, 1), patch_size=32, image_size=(64, 96)
)
TINY_STEM = ViTConfig(
    image_size=(16, 24), patch_size=4, stem=(8, 16), dim=32, depth=2, num_heads=4, num_classes=7
)

PARAMETERS = {  # timm's, published; ours by arithmetic; arXiv:2106.14881, table 1: 4.6, 17.8, ...
    "vit_tiny_r_s16_p8_224": 6_337_704,
    "vit_tiny_r_s16_p8_384": 6_355_944,
    "vit_small_r26_s32_224": 36_431_912,
    "vit_small_r26_s32_384": 36_468_392,
    "vit_base_r26_s32_224": 101_383_976,
    "vit_base_r50_s16_224": 98_659_112,
    "vit_base_r50_s16_384": 98_950_952,
    "vit_large_r50_s32_224": 328_994_856,
    "vit_large_r50_s32_384": 329_092_136,
    "vit_base_resnet50_224": 110_945_832,
    "vitc_1gf_224": 4_567_936,
    "vitc_4gf_224": 17_754_136,
    "vitc_18gf_224": 81_573_160,
    "vitc_36gf_224": 167_796_008,
}
OF_TIMM = [name for name in CONFIGS if timm.is_model(name)]
PUBLISHED = [name for name in CONFIGS if name != "vitc_compact_32"]  # that one is ours
OF_VITC = [name for name in PUBLISHED if name.startswith("vitc")]


def build(config: ViTConfig) -> ViT:
    return Hybrid(config) if isinstance(config, HybridConfig) else ViT(config)


def randomise(model: nn.Module) -> None:
    """Give every parameter and running statistic random values, none of them zero."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
        elif tensor.is_floating_point():
            gain = tensor.ndim == 1 and "norm" in name and "weight" in name
            nn.init.normal_(tensor, 1.0 if gain else 0.0, 0.05 if tensor.ndim > 1 else 0.2)


def timm_model(c: HybridConfig, backbone: nn.Module) -> nn.Module:
    """timm's transformer on a backbone, with random weights, in float64."""
    reference = VisionTransformer(
        img_size=c.image_size,
        patch_size=c.patch_size // c.cell,
        embed_dim=c.dim,
        depth=c.depth,
        num_heads=c.num_heads,
        num_classes=c.num_classes,
        embed_layer=partial(HybridEmbed, backbone=backbone),
        dynamic_img_size=True,
        dynamic_img_pad=True,
    )
    randomise(reference)
    return reference.double().eval()


def timm_bit(depths: tuple[int, ...]) -> nn.Module:
    return ResNetV2(
        depths,
        num_classes=0,
        global_pool="",
        preact=False,
        stem_type="same",
        conv_layer=partial(StdConv2dSame, eps=1e-8),
    )


class Trunk(torchvision.models.ResNet):
    """torchvision's ResNet up to its last map."""

    def __init__(self, depths: tuple[int, ...]) -> None:
        super().__init__(Bottleneck, list(depths))
        self.fc = self.avgpool = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def pair(config: HybridConfig = TINY) -> tuple[Hybrid, nn.Module]:
    """Our model and the reference with the same random weights, in float64."""
    make = timm_bit if config.backbone == "bit" else Trunk
    reference, model = timm_model(config, make(config.depths)), Hybrid(config).double().eval()
    model.load_state_dict(reference.state_dict(), strict=True)
    return model, reference


def gap(ours: Tensor, expected: Tensor) -> float:
    """Largest difference, as a part of the largest value expected."""
    assert ours.shape == expected.shape
    return ((ours - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count(name: str) -> None:
    with torch.device("meta"):
        model = build(CONFIGS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_count_of_the_resnet_hybrid_is_its_parts() -> None:
    c = CONFIGS["vit_base_resnet50_224"]
    with torch.device("meta"):
        resnet = sum(p.numel() for p in torchvision.models.resnet50().parameters())
    assert resnet == 25_557_032
    trunk = resnet - (2048 * 1000 + 1000)
    vit = 7 * 7 * 768 + 768 + 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768 + 768 * 1000 + 1000
    assert trunk + (2048 * 768 + 768) + vit == PARAMETERS["vit_base_resnet50_224"]
    assert c.grid == (7, 7)


@pytest.mark.parametrize("name", OF_TIMM)
def test_state_dict_and_features_are_timms(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build(CONFIGS[name]), timm.create_model(name, num_classes=1000)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert ours.feature_info == theirs.feature_info
    assert ours.no_weight_decay() == {"reg_token", *theirs.no_weight_decay()} - {"dist_token"}


@torch.inference_mode()
@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224"])
def test_matches_timm(name: str) -> None:
    """Whole backbones and a block, at their own size and two where maps are odd or padded."""
    settings = {"depth": 1, "num_classes": 10}
    dynamic = {"dynamic_img_size": True, "dynamic_img_pad": True}
    with torch.device("meta"):
        reference = timm.create_model(name, **settings, **dynamic)
        model = create_model(name, **settings).eval()
    reference = reference.to_empty(device="cpu").eval()
    randomise(reference)
    model.load_state_dict(reference.state_dict(), strict=True, assign=True)
    for size in (224, 224), (96, 160), (75, 130):
        x = torch.randn(1, 3, *size)
        assert gap(model(x), reference(x)) < 1e-4
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    assert gap(model.double()(x), reference.double()(x)) < 1e-9


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (128, 80), (75, 33)])
@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, depths=(1, 1, 1), patch_size=16),
        replace(TINY, patch_size=32),
        TINY_RESNET,
    ],
    ids=["bit", "three stages", "patches of four cells", "resnet"],
)
def test_shapes_of_backbones_match(config: HybridConfig, size: tuple[int, int]) -> None:
    model, reference = pair(config)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert gap(model(x), reference(x)) < 1e-9
    assert gap(model.float()(x.float()), reference.float()(x.float())) < 1e-4


def test_whole_resnet_50_makes_the_map_of_torchvision() -> None:
    with torch.device("meta"):
        trunk = Trunk((3, 4, 6, 3))
        model = Hybrid(replace(CONFIGS["vit_base_resnet50_224"], depth=1))
    backbone = model.patch_embed.backbone
    assert isinstance(backbone, ResNet)
    trunk = trunk.to_empty(device="cpu").eval()
    randomise(trunk)
    backbone.load_state_dict(trunk.state_dict(), strict=True, assign=True)
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        ours, theirs = backbone.eval()(x), trunk(x)
    assert ours.shape == (1, 2048, 7, 7) and gap(ours, theirs) < 1e-4


@pytest.mark.parametrize("config", [TINY, TINY_RESNET], ids=["bit", "resnet"])
def test_gradients_match(config: HybridConfig) -> None:
    model, reference = pair(config)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    weights = torch.randn(2, 7, dtype=torch.float64)
    for m in (model.train(), reference.train()):  # batch norms use and update statistics
        (m(x) * weights).sum().backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-9, rtol=1e-7)
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


def google(w: Mapping[str, Tensor], c: HybridConfig, x: Tensor) -> Tensor:
    """The map of Google's ResNet by its formulas: (B, C, H, W) -> (B, D, h, w).

    Deviations of weights get 1e-5 added, variances of 32 groups 1e-6; padding is SAME; unit 1 of
    all blocks but the first has stride 2 (vit_jax/models_resnet.py).
    """

    def same(x: Tensor, kernel: int, stride: int, value: float) -> Tensor:
        for axis in (2, 3):
            side = x.shape[axis]
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            ends = [missing // 2, missing - missing // 2]
            x = F.pad(x, ends if axis == 3 else [0, 0, *ends], value=value)
        return x

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"]
        deviation, mean = torch.std_mean(kernel, dim=(1, 2, 3), correction=0, keepdim=True)
        x = same(x, kernel.shape[-1], stride, 0.0)
        return F.conv2d(x, (kernel - mean) / (deviation + 1e-5), stride=stride)

    def norm(name: str, x: Tensor) -> Tensor:
        groups = x.unflatten(1, (32, -1))
        variance, mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0, keepdim=True)
        x = ((groups - mean) / (variance + 1e-6).sqrt()).flatten(1, 2)
        return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    x = norm("stem.norm", conv("stem.conv", x, 2)).relu()
    x = F.max_pool2d(same(x, 3, 2, -torch.inf), 3, 2)
    for stage, depth in enumerate(c.depths):
        for unit in range(depth):
            at, stride = f"stages.{stage}.blocks.{unit}", 2 if stage and not unit else 1
            y = norm(f"{at}.norm1", conv(f"{at}.conv1", x)).relu()
            y = norm(f"{at}.norm2", conv(f"{at}.conv2", y, stride)).relu()
            y = norm(f"{at}.norm3", conv(f"{at}.conv3", y))
            if unit == 0:
                x = norm(f"{at}.downsample.norm", conv(f"{at}.downsample.conv", x, stride))
            x = (x + y).relu()
    return x


@pytest.mark.parametrize("size", [(64, 96), (75, 33)])
def test_googles_epsilons(size: tuple[int, int]) -> None:
    """With weights small enough for them to count; timm's give something else."""
    config = replace(TINY, epsilons="google")
    model = Hybrid(config).double()
    randomise(model)
    backbone = model.patch_embed.backbone
    for name, parameter in backbone.named_parameters():
        if "conv" in name:
            parameter.data *= 1e-3
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = google(backbone.state_dict(), config, x)
    assert gap(backbone(x), expected) < 1e-9
    other = Hybrid(replace(config, epsilons="timm")).double().patch_embed.backbone
    other.load_state_dict(backbone.state_dict(), strict=True)
    assert gap(other(x), expected) > 1e-3
    assert EPSILONS["google"] == (0.0, 1e-5, 1e-6)


OF_TORCHVISION = {
    r"^class_token": "cls_token",
    r"^conv_proj\.conv_bn_relu_(\d+)\.0": r"patch_embed.backbone.\1.conv",
    r"^conv_proj\.conv_bn_relu_(\d+)\.1": r"patch_embed.backbone.\1.bn",
    r"^conv_proj\.conv_last": "patch_embed.proj",
    r"^encoder\.pos_embedding": "pos_embed",
    r"^encoder\.layers\.encoder_layer_": "blocks.",
    r"\.ln_(\d)": r".norm\1",
    r"\.self_attention\.in_proj_": ".attn.qkv.",
    r"\.self_attention\.out_proj": ".attn.proj",
    r"\.mlp\.0": ".mlp.fc1",
    r"\.mlp\.3": ".mlp.fc2",
    r"^encoder\.ln": "norm",
    r"^heads\.head": "head",
}


def torchvision_pair(c: ViTConfig) -> tuple[ViT, nn.Module]:
    """A ViT with a convolutional stem and torchvision's, with the same random weights."""
    reference = torchvision.models.VisionTransformer(
        c.image_size[0],
        c.patch_size,
        c.depth,
        c.num_heads,
        c.dim,
        int(c.dim * c.mlp_ratio),
        num_classes=c.num_classes,
        conv_stem_configs=[
            ConvStemConfig(width, 3, stride)
            for width, stride in zip(c.stem, stem_strides(c.stem), strict=True)
        ],
    ).eval()
    randomise(reference)
    weights = {}
    for key, tensor in reference.state_dict().items():
        for theirs, ours in OF_TORCHVISION.items():
            key = re.sub(theirs, ours, key)
        weights[key] = tensor
    with torch.device("meta"):
        model = ViT(c).eval()
    model.load_state_dict(weights, strict=True, assign=True)
    return model, reference


@torch.inference_mode()
@pytest.mark.parametrize("name", OF_VITC)
def test_convolutional_stem_matches_torchvision(name: str) -> None:
    model, reference = torchvision_pair(replace(CONFIGS[name], depth=1, num_classes=10))
    x = torch.randn(1, 3, 224, 224)
    assert gap(model(x), reference(x)) < 1e-4
    if CONFIGS[name].dim < 768:
        x = x.double()
        assert gap(model.double()(x), reference.double()(x)) < 1e-9


def test_convolutional_stem_gradients_match_torchvision() -> None:
    config = replace(TINY_STEM, image_size=(24, 24), stem=(8, 8, 16))
    model, reference = torchvision_pair(config)
    x = torch.randn(4, 3, 24, 24, dtype=torch.float64)
    weights = torch.randn(4, 7, dtype=torch.float64)
    gradients = []
    for m in (model.double().train(), reference.double().train()):
        (m(x) * weights).sum().backward()
        gradients.append({p.shape: p.grad for p in m.parameters() if p.ndim == 4})
    for shape, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][shape], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("name", "giga"), [("1gf", 1.1), ("4gf", 4.0), ("18gf", 17.7)])
def test_cost_of_a_stem_is_that_of_a_block(name: str, giga: float) -> None:
    """arXiv:2106.14881, table 1 and section 3."""
    from torch.utils.flop_counter import FlopCounterMode

    config = CONFIGS[f"vitc_{name}_224"]
    with torch.device("meta"):
        model, image = ViT(config).eval(), torch.empty(1, 3, 224, 224)
        with FlopCounterMode(display=False) as counter:
            model(image)
    counts = {name: sum(of.values()) / 2e9 for name, of in counter.get_flop_counts().items()}
    assert counts["Global"] == pytest.approx(giga, abs=0.06)
    ratio = counts["ViT.patch_embed"] / counts["ViT.blocks.0"]
    assert 0.7 < ratio < 1.4


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (17, 30)])
def test_stem_takes_any_size(size: tuple[int, int]) -> None:
    model = ViT(replace(TINY_STEM, pool="mean", registers=2)).eval()
    maps = model.forward_intermediates(torch.randn(2, 3, *size), [0], intermediates_only=True)
    assert maps[0].shape == (2, 32, -(-size[0] // 4), -(-size[1] // 4))
    assert model.feature_info[0]["reduction"] == 4


def test_stem_may_leave_patches_of_several_cells() -> None:
    model = create_model("deit_tiny_distilled_patch16_224", depth=1, stem=(24, 48))
    assert model.patch_embed.proj.weight.shape == (192, 48, 4, 4)
    assert model(torch.randn(1, 3, 224, 224)).shape == (1, 1000)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("indices", [None, 2, [0, -1]])
def test_intermediates_match_timm(norm: bool, indices: Any) -> None:
    model, reference = pair()
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    options = {"norm": norm, "return_prefix_tokens": True}
    tokens, maps = model.forward_intermediates(x, indices, **options)
    expected_tokens, expected = reference.forward_intermediates(x, indices, **options)
    torch.testing.assert_close((tokens, maps), (expected_tokens, list(expected)))
    early = model.forward_intermediates(x, [0], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(
        early, reference.forward_intermediates(x, [0], stop_early=True, intermediates_only=True)
    )


def count(calls: Counter[str], name: str, *_: Any) -> None:
    calls[name] += 1


@pytest.mark.parametrize("config", [TINY, TINY_RESNET, TINY_STEM], ids=["bit", "resnet", "stem"])
def test_checkpointing_changes_no_gradient_and_no_statistic(config: ViTConfig) -> None:
    seen = []
    for enable in (False, True):
        model, calls = build(config).double(), Counter[str]()
        randomise(model)
        model.set_grad_checkpointing(enable)
        for name, module in model.named_modules():
            if name.endswith("conv2"):
                module.register_forward_hook(partial(count, calls, name))
        x = torch.randn(2, 3, *config.image_size, dtype=torch.float64)
        model(x).square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        seen.append((gradients, dict(model.named_buffers())))
        assert set(calls.values()) <= {1 + enable}
    torch.testing.assert_close(*seen)


def test_reset_classifier() -> None:
    model, x = Hybrid(TINY).double(), torch.randn(2, 3, 64, 96, dtype=torch.float64)
    model.reset_classifier(5)
    assert model(x).shape == (2, 5) and model.head.weight.dtype == torch.float64
    assert model.num_classes == model.config.num_classes == 5
    model.reset_classifier(0, "")
    assert model(x).shape == (2, 1 + 4 * 6, 32)
    features = model.forward_features(x)
    torch.testing.assert_close(model.forward_head(features), features)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = Hybrid(replace(TINY, depths=(2, 1)))
    for name, module in model.named_modules():
        if name.endswith("norm3"):
            assert not module.weight.any(), name
        elif isinstance(module, nn.GroupNorm):
            assert (module.weight == 1).all() and not module.bias.any(), name
        elif isinstance(module, nn.Conv2d) and "backbone" in name:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("config", [TINY, TINY_RESNET, TINY_STEM], ids=["bit", "resnet", "stem"])
def test_exports_with_any_batch(config: ViTConfig) -> None:
    model = build(config).eval()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    x = torch.randn(2, 3, *config.image_size)
    program = torch.export.export(model, (x,), dynamic_shapes=(batch,), strict=False)
    x = torch.randn(3, 3, *config.image_size)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("config", [TINY, TINY_RESNET, TINY_STEM], ids=["bit", "resnet", "stem"])
def test_compiles_to_one_graph(config: ViTConfig) -> None:
    model, x = build(config).eval(), torch.randn(2, 3, *config.image_size)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("config", [TINY, TINY_RESNET, TINY_STEM], ids=["bit", "resnet", "stem"])
def test_runs_under_autocast(config: ViTConfig) -> None:
    model, x = build(config), torch.randn(2, 3, *config.image_size)
    with torch.autocast("cpu", torch.bfloat16):
        model(x).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"patch_size": 8}, "patch_size=8 is not a multiple of the 16 pixels .* cell of; try 16"),
        ({"patch_size": 24, "image_size": (240, 240)}, "patch_size=24 is not a multiple .*try 32"),
        ({"image_size": (225, 224)}, "image_size=225 is not a multiple of patch_size=16"),
        ({"depths": (3, 0, 9)}, "depths=0 is not between 1 and 1024"),
        ({"depths": (1,) * 10, "patch_size": 2048}, "dims=131072 is not between"),
        ({"backbone": "vgg"}, "backbone='vgg' is unknown; choose bit or resnet"),
        ({"backbone": "resnet"}, r"depths=\(3, 4, 9\) are not four stages"),
        ({"epsilons": "jax"}, "epsilons='jax' is unknown; choose timm or google"),
        ({"stem": (64,)}, r"stem=\(64,\) has no place before a backbone; set stem=\(\)"),
        ({"num_heads": 5}, "dim=768 is not a multiple of num_heads=5"),
    ],
    ids=str,
)
def test_bad_config(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HybridConfig(**broken)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"stem": (8, 16, 32)}, "patch_size=4 is not a multiple of the 8 pixels .*; try 8"),
        ({"stem": (8, 0)}, "stem=0 is not between 1 and 65536"),
    ],
    ids=str,
)
def test_bad_stem(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY_STEM, **broken)
