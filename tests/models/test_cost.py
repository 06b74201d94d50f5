"""What models cost against published figures, formulas by hand and real runs."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from vitkit.errors import ConfigError
from vitkit.models import CONFIGS, build, create_model, find_config
from vitkit.models.cost import cost, footprint, stored_parameters

# Parameters and 10^9 multiply-accumulates at 1000 classes, as timm and the papers have them. The
# tests of SwinV2 and of the CNNs have their own.
PUBLISHED = [
    ("vit_tiny_patch16_224", 5_717_416, 1.26),
    ("vit_small_patch16_224", 22_050_664, 4.61),
    ("vit_base_patch16_224", 86_567_656, 17.58),
    ("vit_base_patch16_384", 86_859_496, 55.54),
    ("vit_base_patch32_224", 88_224_232, 4.41),
    ("vit_large_patch16_224", 304_326_632, 61.60),
    ("vit_large_patch32_224", 306_535_400, 15.38),
    ("vit_huge_patch14_224", 632_045_800, 167.4),
    ("deit_tiny_distilled_patch16_224", 5_910_800, 1.27),
    ("deit_small_distilled_patch16_224", 22_436_432, 4.63),
    ("deit_base_distilled_patch16_224", 87_338_192, 17.68),
    ("swin_tiny_patch4_window7_224", 28_288_354, 4.51),
    ("swin_small_patch4_window7_224", 49_606_258, 8.77),
    ("swin_base_patch4_window7_224", 87_768_224, 15.47),
    ("swin_base_patch4_window12_384", 87_903_584, 47.19),
    ("swin_large_patch4_window7_224", 196_532_476, 34.53),
    ("swin_large_patch4_window12_384", 196_735_516, 104.08),
    ("vit_tiny_r_s16_p8_224", 6_337_704, 0.44),
    ("vit_base_r50_s16_224", 98_659_112, 21.66),
    ("vit_base_r50_s16_384", 98_950_952, 67.43),
    ("vit_large_r50_s32_224", 328_994_856, 19.58),
    ("vitc_4gf_224", None, 4.0),  # arXiv:2106.14881, table 2
    ("vitc_18gf_224", None, 17.7),
    ("cct_7_3x1_32", None, 1.19),  # arXiv:2104.05704, table 1
    ("cct_7_3x2_32", None, 0.29),
]
TINY: dict[str, dict[str, Any]] = {
    "vit_base_patch16_224": {"image_size": (32, 48), "patch_size": 8, "dim": 32, "num_heads": 4},
    "deit_tiny_distilled_patch16_224": {"image_size": (32, 48), "num_heads": 2, "dim": 16},
    "vitc_1gf_224": {"image_size": (32, 64), "stem": (4, 8), "dim": 16, "num_heads": 2},
    "vit_base_r50_s16_224": {"image_size": (32, 64), "depths": (2, 3), "dim": 24, "num_heads": 2},
    "cct_7_3x1_32": {"image_size": (32, 48), "dim": 32},
    "swin_tiny_patch4_window7_224": {"image_size": (64, 96), "dim": 12, "depths": (1, 2, 2, 1)},
    "swinv2_tiny_window8_256": {"image_size": (64, 96), "dim": 12, "depths": (1, 2, 2, 1)},
    "resnet18": {"image_size": (64, 96), "dim": 8},
    "regnety_004": {"image_size": (64, 96)},
    "convnet_3_32": {"image_size": (33, 48)},
}


@pytest.mark.parametrize(("name", "parameters", "gmacs"), PUBLISHED)
def test_published_figures(name: str, parameters: int | None, gmacs: float) -> None:
    given = cost(name)
    assert parameters in (given.parameters, None)
    assert given.macs / 1e9 == pytest.approx(gmacs, rel=0.02, abs=0.005)
    assert given.image_size == CONFIGS[name].image_size


def test_published_figure_that_counts_norms_too() -> None:
    """3.56 with the group norms of large maps; theirs are no matrix products."""
    given = cost("vit_small_r26_s32_224")
    assert given.parameters == 36_431_912
    assert given.macs / 1e9 == pytest.approx(3.56, rel=0.03)


def test_closed_form() -> None:
    """ViT-Ti/16 counted by hand: every matrix product, and the two of attention."""
    dim, depth, tokens, patches, classes = 192, 12, 197, 196, 1000
    block = tokens * 12 * dim * dim + 2 * tokens * tokens * dim
    embedding = patches * 3 * 16 * 16 * dim
    assert cost("vit_tiny_patch16_224").macs == embedding + depth * block + dim * classes


def test_parameters_are_those_of_the_model() -> None:
    model = create_model("deit_tiny_patch16_224")
    own = sum(parameter.numel() for parameter in model.parameters())
    assert cost("deit_tiny_patch16_224").parameters == own


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("vit_tiny_patch16_224", "arXiv:2010.11929"),
        ("deit_tiny_patch16_224", "arXiv:2012.12877"),
        ("swin_tiny_patch4_window7_224.ms_in1k", "arXiv:2103.14030"),
    ],
)
def test_json(name: str, source: str) -> None:
    given = cost(name)
    assert json.loads(json.dumps(given.to_json())) == {
        "name": name,
        "parameters": given.parameters,
        "macs": given.macs,
        "image_size": [224, 224],
        "source": source,
    }


def test_json_of_a_footprint() -> None:
    given = footprint(CONFIGS["vit_tiny_patch16_224"])
    assert json.loads(json.dumps(given.to_json())) == {
        "image_size": [224, 224],
        "tokens": 197,
        "parameters": 5_717_416,
        "macs": given.macs,
        "attention_macs": given.attention_macs,
        "scores": [3 * 197**2] * 12,
        "attention_bytes": 4 * 12 * 3 * 197**2,
        "activation_bytes": given.activation_bytes,
    }


def test_nothing_of_the_state_of_torch_is_changed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    cost("vit_tiny_patch16_224")
    given = torch.rand(1)
    assert given.device.type == "cpu" and torch.equal(given, expected)
    assert torch.is_grad_enabled()


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="called 'vit_base_patch16_225', did you mean"):
        cost("vit_base_patch16_225")


def test_names_that_share_a_configuration_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = cost("vit_small_patch16_224")

    def never(config: object) -> None:
        raise AssertionError(config)

    monkeypatch.setattr("vitkit.models.cost.build", never)
    again = cost("deit_small_patch16_224")
    assert (again.parameters, again.macs) == (first.parameters, first.macs)
    assert (again.name, again.source) == ("deit_small_patch16_224", "arXiv:2012.12877")


@pytest.mark.parametrize(
    ("name", "tokens", "layer", "layers"),
    [
        ("vit_base_patch16_224", 197, 12 * 197**2, 12),
        ("deit_base_distilled_patch16_384", 578, 12 * 578**2, 12),
        ("vit_small_r26_s32_224", 50, 6 * 50**2, 12),
        ("cct_7_3x1_32", 256, 4 * 256**2, 7),
    ],
)
def test_scores_of_full_attention(name: str, tokens: int, layer: int, layers: int) -> None:
    """N^2 of each head in each layer, and two products of a head's width with each."""
    given, config = footprint(CONFIGS[name]), CONFIGS[name]
    assert given.tokens == tokens
    assert given.scores == (layer,) * layers
    assert given.attention_macs == layer * layers * 2 * config.dim // config.num_heads
    assert given.attention_bytes == 4 * layer * layers


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("swin_tiny_patch4_window7_224", (64, 16, 4, 1)),
        ("swinv2_base_window12_192", (16, 4, 1, 1)),
    ],
)
def test_scores_inside_windows(name: str, windows: tuple[int, ...]) -> None:
    """n^2 of each window and head; a window is no larger than its map."""
    given, config = footprint(CONFIGS[name]), CONFIGS[name]
    sides = [min(config.window_size, grid[0]) for grid in config.grids]
    expected = [
        count * side**4 * heads
        for count, side, heads, depth in zip(
            windows, sides, config.num_heads, config.depths, strict=True
        )
        for _ in range(depth)
    ]
    assert given.tokens == config.grid[0] * config.grid[1]
    assert list(given.scores) == expected
    assert given.attention_macs == sum(expected) * 2 * config.dim // config.num_heads[0]


def test_windows_score_64_times_fewer_pairs() -> None:
    given = footprint(CONFIGS["swin_tiny_patch4_window7_224"])
    scores = given.scores[0] // 3  # of one head
    assert scores == 64 * 49**2 == 153_664
    assert 64 * scores == (56 * 56) ** 2 == 9_834_496


def test_convolutions_and_pools_have_no_scores() -> None:
    given = footprint(CONFIGS["resnet18"])
    assert (given.tokens, given.scores, given.attention_macs, given.attention_bytes) == (
        0,
        (),
        0,
        0,
    )
    settings = {"image_size": 32, "depth": 2, "dim": 32, "num_heads": 4}
    config = find_config("vit_base_patch16_224", pool="attention", **settings)
    assert footprint(config).scores == (4 * 5**2,) * 2


@pytest.mark.parametrize("name", TINY)
def test_every_way_of_counting_agrees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain run, one that listens, and one that runs each kind of block once."""
    config = find_config(name, **TINY[name])
    with torch.device("meta"):
        model, image = build(config).eval(), torch.empty(1, 3, *config.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    assert footprint(config).macs == counter.get_total_flops() // 2
    monkeypatch.setitem(CONFIGS, name, config)
    assert cost(name).macs == footprint(config).macs


def kept_bytes(model: nn.Module, image: Tensor) -> int:
    """What a forward pass on the CPU really keeps besides weights."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that its place stays taken
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(image)
    assert out.requires_grad
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)


@pytest.mark.parametrize("name", TINY)
def test_activations_are_those_of_a_real_run(name: str) -> None:
    config = find_config(name, **TINY[name])
    sure = {key: 0.0 for key in ("drop_path", "attention_dropout") if hasattr(config, key)}
    model, image = build(replace(config, **sure)), torch.randn(1, 3, *config.image_size)
    given = footprint(config)
    fused = kept_bytes(model, image)
    for module in model.modules():
        if hasattr(module, "on_map"):
            module.on_map = lambda maps: None  # the explicit products
    assert kept_bytes(model, image) == given.activation_bytes
    assert fused / given.activation_bytes < 1.02  # some attention keeps its maps all the same
    assert (given.activation_bytes - given.attention_bytes) / fused < 1.1


def test_activations_of_a_vit_by_hand() -> None:
    """Two norms, queries, keys and values, scaled queries, the map, two halves of an MLP."""
    settings = {"image_size": (32, 48), "patch_size": 8, "dim": 32, "depth": 3, "num_heads": 4}
    tokens, dim, hidden, heads, depth = 25, 32, 128, 4, 3
    attention = (1 + 1 + 3 + 1 + 1) * tokens * dim + heads * tokens**2
    mlp = 2 * tokens * dim + 2 * tokens * hidden
    statistics = 4 * tokens
    last = 2 * tokens * dim + 2 * tokens
    numbers = 3 * 32 * 48 + depth * (attention + mlp + statistics) + last
    given = footprint(find_config("vit_tiny_patch16_224", **settings))
    assert given.activation_bytes == 4 * numbers
    assert given.attention_bytes == 4 * depth * heads * tokens**2


@pytest.mark.parametrize("name", TINY)
def test_stored_parameters_are_those_of_the_formula(name: str) -> None:
    config = find_config(name, **TINY[name])
    model = build(config)
    tensors = model.state_dict()
    assert stored_parameters(config, tensors) == footprint(config).parameters
    extra = {**tensors, "unexpected": torch.zeros(3)}
    assert stored_parameters(config, extra) == footprint(config).parameters + 3


def test_stored_positions_that_are_computed_do_not_count() -> None:
    settings = {"image_size": 32, "depth": 1, "dim": 32, "num_heads": 4, "position": "sincos_2d"}
    model = create_model("vit_tiny_patch16_224", **settings)
    assert "pos_embed" in model.state_dict()
    given = stored_parameters(model.config, model.state_dict())
    assert given == sum(parameter.numel() for parameter in model.parameters())
