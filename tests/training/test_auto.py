"""`--model auto`: what is chosen for which data, and the two lines that say why."""

import re
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitkit.data.sources import Sample, Source, open_source
from vitkit.errors import ConfigError, ImageError
from vitkit.models import find_config
from vitkit.models.cost import footprint
from vitkit.models.vit import ViTConfig
from vitkit.training.auto import (
    BF16_CORE_FLOPS,
    CORE_FLOPS,
    LOOKED_AT,
    NO_HURRY,
    RULES,
    SIDES,
    STRONG,
    Answer,
    Facts,
    choose,
    flops,
    look_at,
)
from vitkit.training.config import without_model

FEW, MEDIUM, MANY = 800, 50_000, 5_000_000
ALL = without_model({"data.val_fraction": 0.0, "data.test_fraction": 0.0}).data


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("vitkit.training.auto.default_workers", lambda: 2)
    monkeypatch.setattr("vitkit.training.auto.gains_from_bf16", lambda device: False)


def answer(images: int, side: int = 300, recipe: str | None = None, **given: Any) -> Answer:
    return choose(Facts(images, 10, side), without_model(given), recipe)


def size_of(images: int, side: int = 300, **given: Any) -> int:
    height, width = answer(images, side, **given).settings["data.image_size"]
    assert height == width
    return height


def has_stem(chosen: Answer) -> bool:
    config = find_config(chosen.settings["model.name"])
    assert isinstance(config, ViTConfig)
    return bool(config.stem)


@pytest.mark.parametrize("images", [1, FEW, 10_000, 10_001, MEDIUM, 1_000_000])
@pytest.mark.parametrize("minutes", [0.05, 10.0, 1e6])
def test_few_images_get_a_convolutional_stem(images: int, minutes: float) -> None:
    chosen = answer(images, minutes=minutes)
    assert has_stem(chosen)
    assert chosen.recipe == "small"


def test_many_images_get_a_plain_vit_of_the_size_that_time_allows() -> None:
    assert answer(MANY).recipe == "deit"
    assert not has_stem(answer(MANY))
    names = [answer(MANY, minutes=10.0**n).settings["model.name"] for n in range(9)]
    assert names[0] == "vit_tiny_patch16_224"
    assert names[-1] == "vit_small_patch16_224"
    assert names == sorted(names, reverse=True)
    assert size_of(MANY, minutes=1.0) >= 96  # 36 patches


def test_many_small_images_get_no_patches_of_half_their_side() -> None:
    chosen = answer(MANY, side=32)
    assert has_stem(chosen)
    assert size_of(MANY, side=32) == 32


@pytest.mark.parametrize("images", [FEW, MEDIUM, MANY])
def test_more_time_never_makes_images_smaller(images: int) -> None:
    sizes = [size_of(images, minutes=2.0**n) for n in range(-4, 30)]
    of = [answer(images, minutes=2.0**n).settings["model.name"] for n in range(-4, 30)]
    for name in set(of):
        alike = [size for size, model in zip(sizes, of, strict=True) if model == name]
        assert alike == sorted(alike)
    assert sizes[-1] == max(SIDES)


@pytest.mark.parametrize("images", [FEW, MEDIUM])
@pytest.mark.parametrize("minutes", [0.5, 2.0, 10.0, 60.0])
def test_the_size_is_the_largest_at_which_images_are_seen_often_enough(
    images: int, minutes: float
) -> None:
    chosen = answer(images, minutes=minutes)
    rule = next(rule for rule in RULES if images <= rule.images)
    operations = 2 * CORE_FLOPS * 60 * minutes

    def visits(side: int) -> float:
        config = find_config(chosen.settings["model.name"], image_size=side)
        return operations / (3 * 2 * footprint(config).macs) / images

    fitting = [side for side in SIDES if visits(side) >= rule.visits]
    assert size_of(images, minutes=minutes) == max(fitting, default=min(SIDES))


@pytest.mark.parametrize(("side", "largest"), [(8, 32), (32, 32), (50, 48), (100, 96), (900, 224)])
def test_images_are_not_made_larger_than_they_are(side: int, largest: int) -> None:
    assert size_of(FEW, side, minutes=1e9) == largest


def test_every_choice_is_a_model_that_can_be_built() -> None:
    for rule in RULES:
        for name in rule.models:
            for side in SIDES:
                if side >= rule.least:
                    assert find_config(name, image_size=side).image_size == (side, side)


def test_the_rules_leave_nothing_out() -> None:
    assert (RULES[-1].images, RULES[-1].side) == (inf, inf)
    assert [rule.images for rule in RULES] == sorted(rule.images for rule in RULES)


# What is given


def test_a_given_size_and_recipe_stay() -> None:
    chosen = answer(FEW, recipe="finetune", **{"data.image_size": 64})
    assert chosen.recipe == "finetune"
    assert "data.image_size" not in chosen.settings
    assert "recipe finetune" in chosen.reasons[0]
    assert chosen.reasons[1].startswith("images of 64x64 pixels (theirs have 300)")


def test_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="image_size=225 is not a multiple"):
        answer(MANY, **{"data.image_size": 225})


# Why


def test_two_lines_say_why() -> None:
    first, second = answer(FEW, minutes=2.5).reasons
    assert re.fullmatch(
        r"model \w+, recipe small: 800 images to train on, 10 classes and no weights to start "
        r"from \(--init\); few images: convolutions before attention",
        first,
    )
    assert re.fullmatch(
        r"images of (\d+)x\1 pixels \(theirs have 300\): 2.5 minutes on cpu show each about "
        r"\d+ times",
        second,
    )
    assert answer(MANY).reasons[0].endswith("much data")


def test_the_second_line_says_what_time_it_thinks_of() -> None:
    without, with_it = answer(MEDIUM).reasons[1], answer(MEDIUM, minutes=NO_HURRY).reasons[1]
    assert without.replace("would show", "show") == f"{with_it}; minutes= sets the time"
    assert answer(MEDIUM).settings == answer(MEDIUM, minutes=NO_HURRY).settings


def test_the_number_of_times_is_that_of_the_time() -> None:
    def times(minutes: float) -> float:
        given = {"minutes": minutes, "data.image_size": 32}
        found = re.search(r"about ([\d,]+) times", answer(MEDIUM, **given).reasons[1])
        assert found
        return float(found[1].replace(",", ""))

    assert times(2000.0) == pytest.approx(2 * times(1000.0), rel=0.01)


# Looking at data


def source(sizes: list[tuple[int, int]], splits: list[str | None], asked: list[int]) -> Source:
    """Images of these sizes, height and width; a size of zero cannot be read."""

    def read(index: int, view: Any = None) -> Any:
        asked.append(index)
        if not sizes[index][0]:
            raise ImageError("broken")
        return np.zeros((*sizes[index], 3), np.uint8)

    samples = tuple(Sample(str(i), i % 2, split) for i, split in enumerate(splits))
    return Source("fake", ("a", "b"), samples, read)


def test_it_counts_training_images_and_looks_at_some() -> None:
    asked: list[int] = []
    sizes = [(40, 300)] * 600 + [(90, 50)] * 1400
    facts = look_at(source(sizes, [None] * 2000, asked), ALL)
    assert facts == Facts(images=2000, classes=2, side=50)  # the shorter side, the middle image
    assert LOOKED_AT <= len(asked) < 2 * LOOKED_AT
    assert asked[0] < 100 and asked[-1] > 1900  # from all over


def test_other_splits_do_not_count() -> None:
    splits: list[str | None] = ["train"] * 30 + ["test"] * 500 + ["val"] * 10
    asked: list[int] = []
    facts = look_at(source([(20, 20)] * 30 + [(99, 99)] * 510, splits, asked), ALL)
    assert (facts.images, facts.side) == (30, 20)
    assert max(asked) < 30


def test_unreadable_images_have_no_size() -> None:
    assert look_at(source([(0, 0), (30, 40), (0, 0)], [None] * 3, []), ALL).side == 30
    assert look_at(source([(0, 0)] * 3, [None] * 3, []), ALL).side == max(SIDES)
    assert look_at(source([], [], []), ALL).images == 0


def test_real_images_are_looked_at(colours: Path) -> None:
    assert look_at(open_source(colours), ALL) == Facts(60, 3, 10)
    assert look_at(open_source("digits"), ALL) == Facts(1797, 10, 8)
    usual = look_at(open_source("digits"), without_model({}).data)
    assert usual == Facts(1797 - 359 - 144, 10, 8)  # without those that the run holds out


def test_images_that_nobody_has_counted_are_many() -> None:
    chosen = answer(0)
    assert chosen.recipe == "deit" and "uncounted images, 10 classes" in chosen.reasons[0]
    given = {"data.epoch_images": 500, "data.val_fraction": 0.0, "data.test_fraction": 0.0}
    facts = look_at(source([], [], []), without_model(given).data)
    assert facts.images == 500 and has_stem(choose(facts, without_model(given), None))


def test_a_core_that_multiplies_in_bfloat16_is_given_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkit.training.auto.gains_from_bf16", lambda device: True)
    cpu = torch.device("cpu")
    assert flops(cpu, without_model({})) == 2 * BF16_CORE_FLOPS
    assert flops(cpu, without_model({"threads": 1})) == BF16_CORE_FLOPS
    assert flops(cpu, without_model({"precision": "fp32"})) == 2 * CORE_FLOPS


def test_few_images_that_are_seen_often_are_changed_more() -> None:
    assert answer(FEW).settings.items() >= STRONG.items()
    for other in (
        answer(MEDIUM),
        answer(FEW, recipe="small"),  # what is asked for is what is done
        answer(8_000, minutes=0.1),  # seen once or twice
    ):
        assert not other.settings.keys() & STRONG.keys()
