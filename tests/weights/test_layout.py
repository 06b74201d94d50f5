"""The language of tables: numbers, rests, braces and steps, read in both directions."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.models.vit import ViTConfig
from vitkit.weights.formats import LAYOUTS, SOURCES, detect
from vitkit.weights.layout import Layout, Name, Step

TABLE = """
same.*
blocks.[i].norm.*   layer[2i+1].ln.*
next.[i+1].weight   block[i].w
twice.[i]           stage[i+1].stage[i+1]-x
qkv.[i].*           attn.[i].{q,k,v}.*
turned              kernel                : turn
"""
TURN = Step(read=lambda tensors: [tensors[0].T], write=lambda tensors, config: [tensors[0].T])
LAYOUT = Layout(
    source="test",
    families=(ViTConfig,),
    table=TABLE,
    steps={"turn": TURN},
    prefix="model.",
    bare=("kernel",),
    ignored=("*.index", "same.unused"),
)


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("a.[i].b", "a.12.b", {"i": 12}),
        ("a.[i].b", "a.x.b", None),
        ("a.[i].b", "a.1.c", None),
        ("a.[i+1].b", "a.3.b", {"i": 2}),
        ("a.[i+1].b", "a.0.b", None),
        ("a.[2i+1].[j].*", "a.7.2.x.y", {"i": 3, "j": 2, "*": "x.y"}),
        ("a.[2i+1].b", "a.4.b", None),
        ("s[i+1].b[i+1]-[j]", "s3.b3-0", {"i": 2, "j": 0}),
        ("s[i+1].b[i+1]-[j]", "s3.b2-0", None),
        ("a.*", "a.", None),
        ("a+b", "aab", None),
    ],
)
def test_names(name: str, key: str, values: dict[str, Any] | None) -> None:
    assert Name(name).match(key) == values
    if values is not None:
        assert Name(name).fill(values) == key


def theirs() -> dict[str, Tensor]:
    return {
        "model.same.a.b": torch.tensor([1.0]),
        "model.layer1.ln.weight": torch.tensor([2.0]),
        "model.layer3.ln.weight": torch.tensor([3.0]),
        "model.block0.w": torch.tensor([4.0]),
        "model.stage2.stage2-x": torch.tensor([5.0]),
        "model.attn.0.q.bias": torch.tensor([6.0]),
        "model.attn.0.k.bias": torch.tensor([7.0]),
        "model.attn.0.v.bias": torch.tensor([8.0]),
        "kernel": torch.arange(6.0).reshape(2, 3),
    }


def test_read_and_write() -> None:
    ours, left = LAYOUT.read(theirs())
    assert {key: tensor.flatten().tolist() for key, tensor in ours.items()} == {
        "same.a.b": [1],
        "blocks.0.norm.weight": [2],
        "blocks.1.norm.weight": [3],
        "next.1.weight": [4],
        "twice.1": [5],
        "qkv.0.bias": [6, 7, 8],
        "turned": [0, 3, 1, 4, 2, 5],
    }
    assert left == {}
    written = LAYOUT.write(ours, ViTConfig())
    assert written.keys() == theirs().keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in theirs().items())


def test_a_prefix_may_be_absent() -> None:
    without = {key.removeprefix("model."): tensor for key, tensor in theirs().items()}
    assert LAYOUT.read(without)[0].keys() == LAYOUT.read(theirs())[0].keys()


def test_what_has_no_place() -> None:
    extra = {
        "model.other": torch.ones(1),
        "model.same.unused": torch.ones(1),
        "x.index": torch.ones(1),
    }
    ours, left = LAYOUT.read(theirs() | extra)
    assert left.keys() == {"other", "same.unused", "x.index"} and len(ours) == 7
    assert [name for name in left if not LAYOUT.ignores(name)] == ["other"]
    with pytest.raises(WeightsError, match="test has no name for novel"):
        LAYOUT.write(ours | {"novel": torch.ones(1)}, ViTConfig())


def test_a_part_is_missing() -> None:
    tensors = theirs()
    del tensors["model.attn.0.k.bias"]
    with pytest.raises(
        WeightsError, match=r"attn\.0\.k\.bias is missing, which belongs to attn\.0\.q"
    ):
        LAYOUT.read(tensors)


def test_a_part_of_another_shape() -> None:
    tensors = theirs() | {"model.attn.0.k.bias": torch.ones(2, 2)}
    with pytest.raises(
        WeightsError, match=r"attn\.0\.q\.bias cannot have the shape \(1,\), \(2, 2\)"
    ):
        LAYOUT.read(tensors)


def test_detect_counts_names() -> None:
    with pytest.raises(WeightsError, match=r"no layout that we know has names such as a, b"):
        detect({"a": torch.ones(1), "b": torch.ones(1)})
    with pytest.raises(ValueError, match="format='tim' is unknown, did you mean 'timm'"):
        detect({}, "tim")
    assert set(SOURCES) == {"timm", "vitkit", "official", "huggingface", "torchvision", "google"}


@pytest.mark.parametrize(
    "layout", LAYOUTS, ids=lambda one: f"{one.source}-{one.families[0].__name__}"
)
def test_tables_can_be_parsed(layout: Layout) -> None:
    """Every line of every table has as many numbers on one side as on the other."""
    for line in layout.lines:
        for ours in line.ours:
            for other in line.theirs:
                assert set(Name(ours.text).pattern.groupindex) == set(other.pattern.groupindex)
