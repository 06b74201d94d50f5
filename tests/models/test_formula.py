"""Parameters derived by formula against those of the models, part by part."""

from typing import Any

import pytest
import torch
from torch import nn

from vitkit.models import CONFIGS, FAMILIES, build, find_config, formula
from vitkit.models.formula import GLOSSARY, evaluate, groups, parts

TINY = {
    "vit_base_patch16_224": {"image_size": (32, 48), "patch_size": 8, "dim": 32, "depth": 3},
    "deit_base_distilled_patch16_224": {"image_size": (32, 48), "dim": 32, "depth": 2},
    "vitc_4gf_224": {"image_size": (32, 64), "dim": 24, "depth": 2, "stem": (4, 4, 8)},
    "vit_base_r50_s16_224": {"image_size": (32, 64), "depths": (2, 1), "dim": 32, "depth": 2},
    "vit_base_resnet50_224": {"image_size": (32, 64), "depths": (1, 2, 1, 1), "dim": 24},
    "cct_7_3x1_32": {"image_size": (32, 48), "dim": 32, "depth": 2},
    "swin_tiny_patch4_window7_224": {"image_size": (64, 96), "dim": 12, "depths": (1, 3, 2, 1)},
    "swinv2_tiny_window8_256": {"image_size": (64, 96), "dim": 12, "depths": (1, 3, 2, 1)},
    "resnet50": {"dim": 8},
    "resnet18": {"dim": 8},
    "regnety_004": {},
    "convnet_3_32": {},
}
VIT, DISTILLED = "vit_base_patch16_224", "deit_base_distilled_patch16_224"
SWIN, SWIN2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"num_classes": number}) for name in TINY for number in (0, 1, 7)),
    *((name, {"in_channels": 5}) for name in TINY),
    *(
        (name, {"position": position, "registers": registers, "prefix_positions": prefix})
        for name in (VIT, DISTILLED, "vitc_4gf_224", "vit_base_r50_s16_224")
        for position in ("learned", "none", "sincos_2d")
        for registers in (0, 3)
        for prefix in (True, False)
    ),
    *((VIT, {"pool": pool}) for pool in ("cls", "mean", "attention", "cls_mean")),
    *((VIT, {"pool": pool, "fc_norm": True}) for pool in ("cls", "mean", "cls_mean")),
    *((VIT, {"pool": pool, "class_token": False}) for pool in ("mean", "attention")),
    (VIT, {"pool": "mean", "class_token": False, "registers": 2, "prefix_positions": False}),
    (VIT, {"pool": "cls_mean", "num_classes": 0}),
    (VIT, {"qk_norm": True, "layer_scale": 1e-4, "mlp_ratio": 2.7, "num_heads": 8}),
    (VIT, {"depth": 1, "patch_size": 16}),
    (DISTILLED, {"qk_norm": True, "layer_scale": 1e-4, "mlp_ratio": 0.3}),
    ("vitc_4gf_224", {"stem": (4,), "patch_size": 2, "pool": "attention"}),
    ("vit_base_r50_s16_224", {"depths": (), "patch_size": 8}),
    ("vit_base_r50_s16_224", {"patch_size": 16, "qk_norm": True, "pool": "mean"}),
    ("vit_base_resnet50_224", {"patch_size": 32, "layer_scale": 1e-4}),
    *(
        ("cct_7_3x1_32", {"conv_layers": layers, "kernel_size": kernel, "position": position})
        for layers in (1, 2, 3)
        for kernel in (3, 5)
        for position in ("learned", "sincos_1d", "none")
    ),
    *(
        (name, settings)
        for name in (SWIN, SWIN2)
        for settings in (
            {"window_size": 5},
            {"window_size": 64, "image_size": (37, 61)},  # a window larger than the map
            {"patch_size": 2, "mlp_ratio": 2.7},
        )
    ),
    (SWIN, {"depths": (2,), "num_heads": (3,)}),
    *(
        (name, {"depths": depths, "drop_path": 0.1})
        for name in ("resnet50", "resnet18")
        for depths in ((1, 1, 1, 1), (2, 3, 1, 2))
    ),
    ("resnet50", {"dim": 12}),
    ("regnety_004", {"group_width": 16, "rounding": "torchvision"}),
    ("regnety_004", {"group_width": 512}),
    *(("convnet_3_32", {"dims": dims}) for dims in ((4,), (3, 5, 7, 9))),
]


def real(config: Any) -> int:
    """The number of parameters of the model itself."""
    with torch.device("meta"):
        return count(build(config))


def count(model: nn.Module, *inside: str, but: tuple[str, ...] = ()) -> int:
    """Parameters of all modules, or of those with one of these words in their name."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if (not inside or any(word in name for word in inside))
        and not any(word in name for word in but)
    )


def test_every_family_has_a_formula() -> None:
    assert formula.FAMILIES.keys() == FAMILIES.keys()
    assert {type(CONFIGS[name]) for name in TINY} == FAMILIES.keys()  # and is swept below


@pytest.mark.parametrize("name", CONFIGS)
def test_it_gives_the_count_of_every_published_model(name: str) -> None:
    config = CONFIGS[name]
    assert sum(part.parameters for part in parts(config)) == real(config)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_it_gives_the_count_with_every_option(name: str, options: dict[str, Any]) -> None:
    config = small(name, options)
    found = parts(config)
    assert sum(part.parameters for part in found) == real(config)
    assert all(part.parameters > 0 for part in found)
    assert len({part.part for part in found}) == len(found)


def small(name: str, options: dict[str, Any]) -> Any:
    settings = {**TINY[name], **options}
    if "dim" in settings and "num_heads" not in settings and "depth" in settings:
        settings["num_heads"] = 4
    return find_config(name, **settings)


@pytest.mark.parametrize("name", TINY)
def test_the_text_is_what_is_evaluated(name: str) -> None:
    """Every formula as Python reads it, with the symbols that its group shows."""
    for group in groups(small(name, {})):
        assert group.symbols.keys() <= GLOSSARY.keys() | {f"s{i}" for i in range(1, 9)}
        for part in group.parts:
            text = part.formula.replace("^", "**")
            assert eval(text, {}, group.symbols) == part.parameters


def test_the_closed_form_of_a_plain_vit() -> None:
    """C*p^2*D + D + D + (N+1)*D + L*(12*D^2 + 13*D) + 2*D + K*D + K, for ViT-Ti/16."""
    c, p, d, n, layers, k = 3, 16, 192, 196, 12, 1000
    closed = c * p**2 * d + d + d + (n + 1) * d + layers * (12 * d**2 + 13 * d) + 2 * d + k * d + k
    found = parts(CONFIGS["vit_tiny_patch16_224"])
    assert sum(part.parameters for part in found) == closed == 5_717_416
    assert (found[0].part, found[0].formula, found[0].parameters) == (
        "patch projection",
        "C*p^2*D + D",
        147_648,
    )
    (attention,) = (part for part in found if part.part == "attention, 12 blocks")
    assert (attention.formula, attention.parameters) == ("L*(4*D^2 + 4*D)", 1_778_688)


@pytest.mark.parametrize("name", [VIT, DISTILLED])
def test_the_parts_of_a_vit_are_its_modules(name: str) -> None:
    options = {"registers": 3, "qk_norm": True, "layer_scale": 0.1, "pool": "cls"}
    config = small(name, options | ({"pool": "attention"} if name == VIT else {}))
    with torch.device("meta"):
        model = build(config)
    blocks = f", {config.depth} blocks"
    expected = {
        "patch projection": count(model, "patch_embed"),
        "class token": count(model, "cls_token"),
        "distillation token": count(model, "dist_token"),
        "registers": count(model, "reg_token"),
        "positions": count(model, "pos_embed"),
        "attention" + blocks: count(model, ".qkv.", ".attn.proj."),
        "query and key norms" + blocks: count(model, "q_norm", "k_norm"),
        "MLP" + blocks: count(model, ".mlp.", but=("attn_pool",)),
        "norms" + blocks: count(model, ".norm1.", ".norm2."),
        "layer scales" + blocks: count(model, ".ls1.", ".ls2."),
        "last norm": count(model.norm),
        "attention pool": count(model, "attn_pool", but=("mlp",)),
        "MLP of the pool": count(model, "attn_pool.mlp"),
        "head": count(model.head),
        "distillation head": count(model, "head_dist"),
    }
    found = {part.part: part.parameters for part in parts(config)}
    assert found == {part: number for part, number in expected.items() if number}


@pytest.mark.parametrize("name", [SWIN, SWIN2])
def test_the_parts_of_a_swin_are_its_modules(name: str) -> None:
    with torch.device("meta"):
        model = build(small(name, {}))
    expected = {
        "patches: projection": count(model.patch_embed.proj),
        "patches: norm": count(model.patch_embed.norm),
        "head: norm": count(model.norm),
        "head: classifier": count(model.head),
    }
    biases = ("relative_position_bias_table", "cpb_mlp")
    for i, stage in enumerate(model.layers):
        title = f"stage {i + 1}: "
        expected[title + "merging"] = count(stage.downsample)
        expected[title + "attention"] = count(stage, ".attn.", but=biases)
        expected[title + "position biases"] = count(stage, *biases)
        expected[title + "MLP"] = count(stage, ".mlp.")
        expected[title + "norms"] = count(stage.blocks, "norm1", "norm2")
    found = {part.part: part.parameters for part in parts(small(name, {}))}
    assert found == {part: number for part, number in expected.items() if number}


@pytest.mark.parametrize("name", ["resnet50", "resnet18", "regnety_004"])
def test_the_parts_of_a_cnn_are_its_modules(name: str) -> None:
    config = small(name, {})
    with torch.device("meta"):
        model = build(config)
    found = {part.part: part.parameters for part in parts(config)}
    for i, stage in enumerate(model.stages()[1:]):
        blocks = nn.ModuleList(block for block in stage if not isinstance(block, nn.MaxPool2d))
        title = f"stage {i + 1}: "
        whole = sum(number for part, number in found.items() if part.startswith(title))
        assert whole == count(blocks)
        assert found[title + "norms"] == count(blocks, "bn", "downsample.1")
        assert found.get(title + "shortcut", 0) == count(blocks, "downsample.0", "downsample.conv")


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("D", 5), ("D^2 + 3*D", 40), ("2*D^2", 50), ("L*(D - 1)*2", 24), ("2^D - L", 29)],
)
def test_evaluate(text: str, value: int) -> None:
    assert evaluate(text, {"D": 5, "L": 3}) == value


@pytest.mark.parametrize("text", ["D()", "D.real", "D/2", "D if D else 1", "[D]", "-D", "1.5*D"])
def test_evaluate_knows_nothing_but_arithmetic(text: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        evaluate(text, {"D": 5})
