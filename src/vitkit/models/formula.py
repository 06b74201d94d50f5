"""How many parameters a model has, derived by hand: a formula for each of its parts.

The text that is shown is the text that is evaluated, so that it and the number cannot differ.
"""

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from vitkit.layers.cosine_window import HIDDEN
from vitkit.layers.window import fit_window
from vitkit.models.backbone import Config
from vitkit.models.cct import CCTConfig
from vitkit.models.convnet import ConvNetConfig
from vitkit.models.deit import DeiTConfig
from vitkit.models.hybrid import HybridConfig
from vitkit.models.regnet import STEM, RegNetConfig, squeezed
from vitkit.models.resnet import ResNetConfig
from vitkit.models.swin import SwinConfig
from vitkit.models.swinv2 import SwinV2Config
from vitkit.models.vit import ViTConfig

GLOSSARY = {
    "C": "image channels",
    "p": "patch side in pixels",
    "q": "patch side in cells",
    "k": "kernel side",
    "n": "convolutions",
    "s1": "width after convolution 1",
    "P": "prefix tokens",
    "N": "patches",
    "R": "registers",
    "L": "blocks",
    "B": "width before",
    "D": "width",
    "W": "inner width",
    "M": "MLP width",
    "H": "heads",
    "d": "head width",
    "h": "window height",
    "w": "window width",
    "X": "bias network width",
    "G": "group width",
    "S": "squeeze width",
    "F": "squeeze width of block 1",
    "K": "classes",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a model, the formula of its parameters, and what that gives."""

    part: str
    formula: str
    parameters: int


@dataclass(frozen=True, slots=True)
class Group:
    """Parts whose formulas read the same symbols; `GLOSSARY` has the words for those."""

    title: str  # such as "stage 1"; empty where the whole model is one group
    symbols: dict[str, int]  # those that occur
    parts: tuple[Part, ...]


def parts(config: Config) -> list[Part]:
    """Every part under its full name; their parameters sum to the model's."""
    return [
        Part(f"{group.title}: {part.part}".removeprefix(": "), part.formula, part.parameters)
        for group in groups(config)
        for part in group.parts
    ]


def groups(config: Config) -> list[Group]:
    """The parts of a model in groups, in the order in which an image meets them."""
    return [group for group in FAMILIES[type(config)](config) if group.parts]


def vit(c: ViTConfig) -> Iterator[Group]:
    """Patches, tokens, blocks, head (arXiv:2010.11929, fig. 1); DeiT has two tokens and heads."""
    before, cell = c.in_channels, 1
    if isinstance(c, HybridConfig):
        yield from backbone(c)
        before, cell = c.dims[-1], c.cell
    elif c.stem:
        yield conv_stem(c)
        before, cell = c.stem[-1], c.stem_cell
    symbols = {
        "C": c.in_channels,
        "B": before,
        "p": c.patch_size,
        "q": c.patch_size // cell,
        "P": c.num_prefix_tokens,
        "N": prod(c.grid),
        "R": c.registers,
        "D": c.dim,
        "L": c.depth,
        "d": c.dim // c.num_heads,
        "M": int(c.dim * c.mlp_ratio),
        "K": c.num_classes,
    }
    rows = "(P + N)*D" if c.prefix_positions and c.num_prefix_tokens else "N*D"
    head = "2*D*K + K" if c.pool == "cls_mean" else "D*K + K"
    blocks = f", {c.depth} blocks"
    formulas = {
        "patch projection": "C*p^2*D + D" if cell == 1 else "B*q^2*D + D",
        "class token": "D" if c.class_token else "",
        "distillation token": "D" if isinstance(c, DeiTConfig) else "",
        "registers": "R*D" if c.registers else "",
        "positions": rows if c.position == "learned" else "",
        "attention" + blocks: "L*(4*D^2 + 4*D)",
        "query and key norms" + blocks: "L*4*d" if c.qk_norm else "",
        "MLP" + blocks: "L*(2*D*M + M + D)",
        "norms" + blocks: "L*4*D",
        "layer scales" + blocks: "L*2*D" if c.layer_scale is not None else "",
        "last norm": "2*D",
        "attention pool": "4*D^2 + 7*D" if c.pool == "attention" else "",
        "MLP of the pool": "2*D*M + M + D" if c.pool == "attention" else "",
        "head": head if c.num_classes else "",
        "distillation head": head if c.num_classes and isinstance(c, DeiTConfig) else "",
    }
    yield group("transformer" if cell > 1 else "", symbols, formulas)


def conv_stem(c: ViTConfig) -> Group:
    """3x3 convolutions with batch norm (arXiv:2106.14881)."""
    widths = {f"s{i + 1}": width for i, width in enumerate(c.stem)}
    convolutions = " + ".join(f"{a}*{b}" for a, b in pairwise(["C", *widths]))
    formulas = {
        "convolutions": f"9*({convolutions})",
        "batch norms": f"2*({' + '.join(widths)})",
    }
    return group("stem", {"C": c.in_channels, **widths}, formulas)


def backbone(c: HybridConfig) -> Iterator[Group]:
    """A ResNet, its norms over groups or batches (arXiv:2010.11929, section 3.1)."""
    yield resnet_stem(c.in_channels, c.dims[0])
    for i, (before, dim) in enumerate(pairwise(c.dims)):
        yield bottlenecks(f"stage {i + 1}", before, dim, c.depths[i])


def cct(c: CCTConfig) -> Iterator[Group]:
    """Convolutions, blocks without a bias of queries, keys and values (arXiv:2104.05704)."""
    symbols = {
        "k": c.kernel_size,
        "C": c.in_channels,
        "n": c.conv_layers,
        "W": c.widths[1],
        "N": prod(c.grid),
        "D": c.dim,
        "L": c.depth,
        "M": int(c.dim * c.mlp_ratio),
        "K": c.num_classes,
    }
    several, blocks = c.conv_layers > 1, f", {c.depth} blocks"
    formulas = {
        "convolutions": "k^2*(C*W + (n - 2)*W^2 + W*D)" if several else "k^2*C*D",
        "positions": "N*D" if c.position == "learned" else "",
        "attention" + blocks: "L*(4*D^2 + D)",
        "MLP" + blocks: "L*(2*D*M + M + D)",
        "norms" + blocks: "L*4*D",
        "last norm": "2*D",
        "sequence pool": "D + 1",
        "head": "D*K + K" if c.num_classes else "",
    }
    yield group("", symbols, formulas)


def swin(c: SwinConfig) -> Iterator[Group]:
    """Patches, stages of attention in windows, head (arXiv:2103.14030, fig. 3)."""
    symbols = {"C": c.in_channels, "p": c.patch_size, "D": c.dim}
    yield group("patches", symbols, {"projection": "C*p^2*D + D", "norm": "2*D"})
    for stage, dim in enumerate(c.dims):
        (height, width), _ = fit_window(c.grids[stage], c.window_size)
        symbols = {
            "L": c.depths[stage],
            "B": dim // 2,
            "D": dim,
            "M": int(dim * c.mlp_ratio),
            "H": c.num_heads[stage],
            "h": height,
            "w": width,
            "X": HIDDEN,
        }
        attention = cosine_attention() if isinstance(c, SwinV2Config) else window_attention()
        merging = "4*B*D + 2*D" if isinstance(c, SwinV2Config) else "4*B*D + 8*B"
        formulas = {
            "merging": merging if stage else "",
            **attention,
            "MLP": "L*(2*D*M + M + D)",
            "norms": "L*4*D",
        }
        yield group(f"stage {stage + 1}", symbols, formulas)
    head = {"norm": "2*D", "classifier": "D*K + K" if c.num_classes else ""}
    yield group("head", {"D": c.num_features, "K": c.num_classes}, head)


def window_attention() -> dict[str, str]:
    """Four matrices, and a bias for every offset inside a window (arXiv:2103.14030, eq. 4)."""
    return {"attention": "L*(4*D^2 + 4*D)", "position biases": "L*(2*h - 1)*(2*w - 1)*H"}


def cosine_attention() -> dict[str, str]:
    """No bias of keys; a small network makes the position biases (arXiv:2111.09883, eq. 2, 3)."""
    return {"attention": "L*(4*D^2 + 3*D + H)", "position biases": "L*(3*X + X*H)"}


def resnet(c: ResNetConfig) -> Iterator[Group]:
    """Stem, four stages, head (arXiv:1512.03385, table 1)."""
    yield resnet_stem(c.in_channels, c.dim)
    stage = bottlenecks if c.block == "bottleneck" else basic_blocks
    for i, (before, dim) in enumerate(pairwise((c.dim, *c.dims))):
        yield stage(f"stage {i + 1}", before, dim, c.depths[i])
    yield classifier(c)


def resnet_stem(channels: int, dim: int) -> Group:
    """One convolution and its norm."""
    return group("stem", {"C": channels, "D": dim}, {"convolution": "7^2*C*D", "norm": "2*D"})


def bottlenecks(title: str, before: int, dim: int, depth: int) -> Group:
    """1x1, 3x3 and 1x1 convolutions (arXiv:1512.03385, fig. 5, right)."""
    formulas = {
        "block 1": "B*W + 9*W^2 + W*D",
        "other blocks": "(L - 1)*(2*D*W + 9*W^2)" if depth > 1 else "",
        "shortcut": "B*D",
        "norms": "L*(4*W + 2*D) + 2*D",
    }
    return group(title, {"L": depth, "B": before, "D": dim, "W": dim // 4}, formulas)


def basic_blocks(title: str, before: int, dim: int, depth: int) -> Group:
    """Two 3x3 convolutions (arXiv:1512.03385, fig. 5, left)."""
    formulas = {
        "block 1": "9*B*D + 9*D^2",
        "other blocks": "(L - 1)*18*D^2" if depth > 1 else "",
        "shortcut": "B*D" if before != dim else "",
        "norms": "L*4*D + 2*D" if before != dim else "L*4*D",
    }
    return group(title, {"L": depth, "B": before, "D": dim}, formulas)


def regnet(c: RegNetConfig) -> Iterator[Group]:
    """Stem, four stages, head (arXiv:2003.13678, section 3.2)."""
    stem = {"convolution": "9*C*D", "norm": "2*D"}
    yield group("stem", {"C": c.in_channels, "D": STEM}, stem)
    for i, (before, dim) in enumerate(pairwise((STEM, *c.dims))):
        symbols = {
            "L": c.depths[i],
            "B": before,
            "D": dim,
            "G": c.group_widths[i],
            "F": squeezed(before),
            "S": squeezed(dim),
        }
        others = c.depths[i] > 1
        formulas = {
            "block 1": "B*D + 9*G*D + D^2",
            "other blocks": "(L - 1)*(2*D^2 + 9*G*D)" if others else "",
            "squeeze of block 1": "2*D*F + F + D",
            "other squeezes": "(L - 1)*(2*D*S + S + D)" if others else "",
            "shortcut": "B*D",
            "norms": "L*6*D + 2*D",
        }
        yield group(f"stage {i + 1}", symbols, formulas)
    yield classifier(c)


def convnet(c: ConvNetConfig) -> Iterator[Group]:
    """3x3 convolutions and a head."""
    for i, (before, dim) in enumerate(pairwise((c.in_channels, *c.dims))):
        yield group(f"layer {i + 1}", {"B": before, "D": dim}, {"convolution": "9*B*D + D"})
    yield classifier(c)


def classifier(c: Config) -> Group:
    """One linear layer, or none."""
    formulas = {"classifier": "D*K + K" if c.num_classes else ""}
    return group("head", {"D": c.num_features, "K": c.num_classes}, formulas)


def group(title: str, symbols: Mapping[str, int], formulas: Mapping[str, str]) -> Group:
    """Parts with their formulas evaluated; one with an empty formula is left out."""
    there = {part: formula for part, formula in formulas.items() if formula}
    read = set().union(*(names(formula) for formula in there.values()))
    return Group(
        title,
        {name: value for name, value in symbols.items() if name in read},
        tuple(Part(p, formula, evaluate(formula, symbols)) for p, formula in there.items()),
    )


OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
}


def evaluate(formula: str, symbols: Mapping[str, int]) -> int:
    """The value of sums, differences, products and powers (`^`) of symbols and whole numbers."""

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name):
                return symbols[name]
            case ast.BinOp(left=left, op=op, right=right):
                return OPERATORS[type(op)](value(left), value(right))
        raise AssertionError(f"{formula!r} holds more than arithmetic")

    return value(parse(formula))


def names(formula: str) -> set[str]:
    """The symbols that a formula reads."""
    return {node.id for node in ast.walk(parse(formula)) if isinstance(node, ast.Name)}


def parse(formula: str) -> ast.expr:
    """The tree of a formula, in which `^` is a power."""
    return ast.parse(formula.replace("^", "**"), mode="eval").body


FAMILIES: dict[type[Config], Callable[[Any], Iterator[Group]]] = {
    ViTConfig: vit,
    DeiTConfig: vit,
    HybridConfig: vit,
    CCTConfig: cct,
    SwinConfig: swin,
    SwinV2Config: swin,
    ResNetConfig: resnet,
    RegNetConfig: regnet,
    ConvNetConfig: convnet,
}
