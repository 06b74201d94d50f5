"""CCT against its formulas, against logits of another implementation, and what the authors publish.

No library among the tests' dependencies has the model. `reference` is written from the paper and
the order of the authors' block; `test_stored_logits` holds numbers that their code's port in
vit-pytorch 1.26.11 computed from the same weights.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.attention import Attention
from vitkit.layers.drop_path import DropPath
from vitkit.layers.pool import SequencePool
from vitkit.models.cct import CCT, CONFIGS, CCTConfig

STORED = [5.980815662400, 2.773505720879, 1.574147150133, 6.027082760491, -4.024927162745]
TINY = CCTConfig(image_size=(16, 24), conv_layers=2, dim=32, depth=3, num_heads=4, num_classes=7)

# Published in millions for 10 classes (1000 for cct_14_7x2_224): 0.284, 0.482, 3.327, 3.760, 3.853,
# 22.36. That of cct_6_3x1_32, 3.168, is for positions that are not learned.
PARAMETERS = {
    "cct_2_3x2_32": 283_723,
    "cct_4_3x2_32": 482_123,
    "cct_6_3x1_32": 3_233_803,
    "cct_6_3x2_32": 3_326_923,
    "cct_7_3x1_32": 3_760_139,
    "cct_7_3x2_32": 3_853_259,
    "cct_7_7x2_224": 4_550_091,
    "cct_14_7x2_224": 21_986_123,
    "cct_14_7x2_384": 22_132_043,
}


def random(config: CCTConfig) -> CCT:
    """A model in float64 whose every number is random and none zero."""
    torch.manual_seed(0)
    model = CCT(config).double().eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name and "weight" in name else 0.0, 0.2)
    return model


def reference(w: Mapping[str, Tensor], c: CCTConfig, x: Tensor) -> Tensor:
    """Logits from a state dict, by formulas alone: (B, C, H, W) -> (B, K)."""
    for layer in range(c.conv_layers):
        stride = max(1, c.kernel_size // 2 - 1)
        x = F.conv2d(x, w[f"tokenizer.convs.{layer}.weight"], None, stride, c.kernel_size // 2)
        x = F.max_pool2d(x.clamp(min=0), 3, 2, 1)
    z = x.flatten(2).mT  # (B, N, D)
    z = z + w["pos_embed"] if "pos_embed" in w else z

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].mT + w[f"{name}.bias"]

    for i in range(c.depth):
        q, k, v = (norm(f"blocks.{i}.norm1", z) @ w[f"blocks.{i}.attn.qkv.weight"].mT).chunk(3, -1)
        heads = []
        for q_i, k_i, v_i in zip(
            *(each.split(c.dim // c.num_heads, -1) for each in (q, k, v)), strict=True
        ):
            scores = q_i @ k_i.mT / (c.dim // c.num_heads) ** 0.5
            heads.append(scores.softmax(-1) @ v_i)
        z = z + linear(f"blocks.{i}.attn.proj", torch.cat(heads, -1))
        z = norm(f"blocks.{i}.norm2", z)  # the second shortcut starts here
        hidden = linear(f"blocks.{i}.mlp.fc1", z)
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        z = z + linear(f"blocks.{i}.mlp.fc2", hidden)
    z = norm("norm", z)
    pooled = (linear("pool.attention", z).softmax(1) * z).sum(1)  # x_L' = softmax(g(x_L)^T) x_L
    return linear("head", pooled)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_count(name: str) -> None:
    with torch.device("meta"):
        model = CCT(replace(CONFIGS[name], num_classes=10))
        full = CCT(CONFIGS[name])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == PARAMETERS[name]
    assert sum(p.numel() for p in full.parameters()) == count + 990 * (full.num_features + 1)


def test_published_count_without_learned_positions() -> None:
    model = CCT(replace(CONFIGS["cct_6_3x1_32"], num_classes=10, position="sincos_1d"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_168_267


@pytest.mark.parametrize("name", CONFIGS)
def test_matches_the_formulas(name: str) -> None:
    """Two blocks of every variant, at a size for 16 to 128 tokens."""
    size = (16, 32) if CONFIGS[name].kernel_size == 3 else (64, 128)
    model = random(replace(CONFIGS[name], depth=2, image_size=size, num_classes=10))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected = reference(model.state_dict(), model.config, x)
        assert expected.abs().max() > 0.1
        assert (model(x) - expected).abs().max() < 1e-9 * expected.abs().max()
        gap = (model.float()(x.float()) - expected).abs().max()
    assert gap < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("position", ["learned", "sincos_1d", "none"])
@pytest.mark.parametrize("conv_layers", [1, 2, 3])
def test_options_match_the_formulas(position: Any, conv_layers: int) -> None:
    model = random(replace(TINY, position=position, conv_layers=conv_layers, in_channels=2))
    x = torch.randn(2, 2, 16, 24, dtype=torch.float64)
    expected = reference(model.state_dict(), model.config, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-12)


def test_gradients_match_the_formulas() -> None:
    model = random(TINY)
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    weights = torch.randn(2, 7, dtype=torch.float64)
    names, parameters = zip(*model.named_parameters(), strict=True)
    ours = torch.autograd.grad((model(x) * weights).sum(), parameters)
    logits = reference(dict(model.named_parameters()), TINY, x)
    theirs = torch.autograd.grad((logits * weights).sum(), parameters)
    for name, actual, expected in zip(names, ours, theirs, strict=True):
        # A shift of all scores changes no weight of the pool.
        assert expected.abs().max() > 0 or name == "pool.attention.bias"
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12, msg=name)


def test_stored_logits() -> None:
    """CCT-2/3x2, each tensor filled with sines of its place, from vit-pytorch 1.26.11."""
    model = CCT(replace(CONFIGS["cct_2_3x2_32"], num_classes=5)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fill = sines(parameter.shape, 0.3 if parameter.ndim > 1 else 0.1)
            parameter.copy_(fill + (1.0 if "norm" in name and "weight" in name else 0.0))
        logits = model(sines(torch.Size((1, 3, 32, 32)), 2.0))
    expected = torch.tensor([STORED], dtype=torch.float64)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def sines(shape: torch.Size, scale: float) -> Tensor:
    """Numbers that no generator has to give twice."""
    places = torch.arange(1, shape.numel() + 1, dtype=torch.float64)
    return (scale * torch.sin(places * places)).reshape(shape)


@pytest.mark.parametrize("size", [(24, 16), (16, 16), (13, 30)])
def test_positions_follow_the_image(size: tuple[int, int]) -> None:
    """24x16 has as many tokens as the native 16x24, on another grid."""
    model = random(TINY)
    assert TINY.grid == (4, 6) and model.pos_embed is not None
    grid = tuple(-(-side // 4) for side in size)
    image = model.pos_embed.unflatten(1, (4, 6)).permute(0, 3, 1, 2).float()
    resized = F.interpolate(image, grid, mode="bicubic", antialias=True).double()
    weights = {**model.state_dict(), "pos_embed": resized.flatten(2).mT}
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(model(x), reference(weights, TINY, x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize(("indices", "chosen"), [(None, [0, 1, 2]), (2, [1, 2]), ([0, -2], [0, 1])])
def test_intermediates(norm: bool, stop_early: bool, indices: Any, chosen: list[int]) -> None:
    model, seen = random(TINY), list[Tensor]()
    for block in model.blocks:
        block.register_forward_hook(lambda *args: seen.append(args[2]))
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    last, maps = model.forward_intermediates(x, indices, norm=norm, stop_early=stop_early)
    assert len(seen) == (max(chosen) + 1 if stop_early else 3)
    torch.testing.assert_close(last, model.norm(seen[-1]))
    tokens = [model.norm(seen[i]) if norm else seen[i] for i in chosen]
    assert [m.shape for m in maps] == [(2, 32, 4, 6)] * len(chosen)
    for actual, expected in zip(maps, tokens, strict=True):
        torch.testing.assert_close(actual.flatten(2).mT, expected)
    alone = model.forward_intermediates(
        x, indices, norm=norm, output_fmt="NLC", intermediates_only=True
    )
    torch.testing.assert_close(alone, tokens)
    if not stop_early:
        torch.testing.assert_close(model.forward_head(last), model(x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"indices": [3]}, "is not among 3 features"), ({"output_fmt": "NHWC"}, "use NCHW or NLC")],
)
def test_intermediates_that_there_are_not(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CCT(TINY).forward_intermediates(torch.randn(1, 3, 16, 24), **wrong)


@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_maps_as_described(name: str) -> None:
    config = CONFIGS[name]
    with torch.device("meta"):
        model = CCT(config)
        maps = model.forward_intermediates(torch.empty(1, 3, *config.image_size), [0])[1]
    assert len(model.feature_info) == config.depth
    about = model.feature_info[0]
    assert about["num_chs"] == maps[0].shape[1] and about["module"] == "blocks.0"
    assert about["reduction"] * maps[0].shape[2] == config.image_size[0]
    tokens = {"3x1_32": 256, "3x2_32": 64, "7x2_224": 196, "7x2_384": 576}[name.split("_", 2)[2]]
    assert config.grid[0] * config.grid[1] == tokens


def test_reset_classifier() -> None:
    model, x = random(TINY), torch.randn(2, 3, 16, 24, dtype=torch.float64)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert features.shape == (2, 24, 32) and pooled.shape == (2, 32)
    model.reset_classifier(5)
    assert model(x).shape == (2, 5) and model.num_classes == model.config.num_classes == 5
    assert model.global_pool == "seq" and model.no_weight_decay() == {"pos_embed"}
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), features)
    model.reset_classifier(3, "seq")
    assert model(x).shape == (2, 3)
    with pytest.raises(ConfigError, match="global_pool='avg' is not how this model pools"):
        model.reset_classifier(3, "avg")


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = CCT(replace(CONFIGS["cct_7_3x2_32"], depth=1))
    assert model.pos_embed is not None
    assert model.pos_embed.std().item() == pytest.approx(0.2, rel=0.05)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15), name
            assert module.bias is None or not module.bias.any(), name
        if isinstance(module, nn.Conv2d):
            fan_in = 9 * module.in_channels
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1), name


def test_dropout_stands_where_the_authors_have_it() -> None:
    model = CCT(replace(TINY, dropout=0.3))
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0, 0.05, 0.05, 0.1, 0.1])
    assert [m.attention_dropout for m in model.modules() if isinstance(m, Attention)] == [0.1] * 3
    found = {name for name, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p == 0.3}
    in_a_block = ("attn.proj_drop", "mlp.drop1", "mlp.drop2")
    assert found == {"pos_drop", *(f"blocks.{i}.{name}" for i in range(3) for name in in_a_block)}


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for enable in (False, True):
        model = random(TINY)
        model.set_grad_checkpointing(enable)
        x = torch.linspace(-1, 1, 2 * 3 * 16 * 24, dtype=torch.float64).reshape(2, 3, 16, 24)
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_tap_sees_the_pool() -> None:
    model, maps = random(TINY), list[Tensor]()
    model.pool.on_map = maps.append
    model(torch.randn(2, 3, 16, 24, dtype=torch.float64))
    assert isinstance(model.pool, SequencePool) and maps[0].shape == (2, 1, 1, 24)
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 1, 1, dtype=torch.float64))


def test_exports_with_any_batch() -> None:
    model = CCT(TINY).eval()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    x = torch.randn(2, 3, 16, 24)
    program = torch.export.export(model, (x,), dynamic_shapes=(batch,), strict=False)
    x = torch.randn(3, 3, 16, 24)
    torch.testing.assert_close(program.module()(x), model(x))


def test_compiles_to_one_graph() -> None:
    model, x = CCT(TINY).eval(), torch.randn(2, 3, 16, 24)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_runs_under_autocast() -> None:
    model, x = CCT(TINY), torch.randn(2, 3, 16, 24)
    with torch.autocast("cpu", torch.bfloat16):
        model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"kernel_size": 4}, "kernel_size=4 has no middle; try 3 or 7"),
        ({"kernel_size": 1}, "kernel_size=1 has no middle"),
        ({"conv_layers": 0}, "conv_layers=0 is not between 1 and 1024"),
        ({"num_heads": 3}, "dim=256 is not a multiple of num_heads=3; try num_heads=2"),
        ({"position": "sincos_2d"}, "position='sincos_2d' is unknown; choose learned, sincos_1d"),
        ({"mlp_ratio": 0.0}, "mlp_ratio=0.0 leaves the MLP no width; try 4"),
        ({"drop_path": 1.0}, "drop_path=1.0 is no probability below 1"),
        ({"image_size": (32,)}, r"image_size=\(32,\) is not \(height, width\)"),
    ],
    ids=str,
)
def test_bad_config(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CCTConfig(**broken)
