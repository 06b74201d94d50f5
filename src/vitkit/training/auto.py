"""Which model, size of images and recipe suit the data, the device and the time: `--model auto`.

The rules are the field's: few images need the built-in knowledge of convolutions, or weights that
saw many; a plain transformer pays once there is much data (arXiv:2010.11929, section 4.3;
arXiv:2106.14881; arXiv:2104.05704).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import Any

from vitkit.data.loader import default_workers
from vitkit.data.sources import Source
from vitkit.errors import ImageError
from vitkit.models import find_config
from vitkit.models.cost import footprint
from vitkit.runtime.device import choose_device

SIDES = (224, 192, 160, 128, 96, 64, 48, 32)  # pixels that an image may be brought to
COMPACT = "vitc_compact_32"
LOOKED_AT = 24  # images whose size is asked for
CORE_FLOPS, GPU_FLOPS = 5e10, 5e13  # a second, that training reaches on one core, on one GPU
NO_HURRY = 60.0  # minutes of a run that is given none, at the recipe's epochs


@dataclass(frozen=True, slots=True)
class Rule:
    """What is trained from scratch on at most so many images."""

    images: float  # to train on
    models: tuple[str, ...]  # in the order of preference: the first that the time is enough for
    recipe: str
    visits: int  # that every image should get at least
    why: str


RULES = (
    Rule(10_000, (COMPACT,), "small", 20, "few images: convolutions before attention"),
    Rule(1_000_000, (COMPACT,), "small", 4, "a mid-sized set: a convolutional stem"),
    Rule(inf, ("vit_small_patch16_224", "vit_tiny_patch16_224"), "deit", 30, "much data"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides."""

    images: int  # to train on
    classes: int
    side: int  # pixels, the shorter one, of the middle image


@dataclass(frozen=True, slots=True)
class Answer:
    """What is chosen, and why."""

    recipe: str
    reasons: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def look_at(source: Source) -> Facts:
    """Count a source's images, and ask some for their size."""
    train = [i for i, sample in enumerate(source.samples) if sample.split in (None, "train")]
    sides = []
    for index in train[:: max(len(train) // LOOKED_AT, 1)]:
        try:
            sides.append(min(source.read(index).shape[:2]))
        except ImageError:
            continue
    return Facts(len(train), len(source.classes), round(median(sides)) if sides else SIDES[0])


def choose(facts: Facts, given: Mapping[str, Any]) -> Answer:
    """Model, size of images and recipe for a run from scratch, with two lines that say why.

    The size is the largest, up to that of the images, at which every image is seen often enough in
    the time that `given` settings leave.
    """
    rule = next(rule for rule in RULES if facts.images <= rule.images)
    device = choose_device(str(given.get("device", "auto")))
    minutes = float(given.get("minutes") or NO_HURRY)
    speed = GPU_FLOPS if device.type == "cuda" else CORE_FLOPS * default_workers()
    affordable = speed * 60 * minutes / max(facts.images * rule.visits, 1)  # for one image
    sides = [side for side in SIDES if side <= max(facts.side, SIDES[-1])]
    options = [(name, side) for name in rule.models for side in sides]
    name, side = next(
        (option for option in options if cost(*option) <= affordable), (rule.models[-1], sides[-1])
    )
    time = f"{minutes:g} minutes" + ("" if given.get("minutes") else " at most")
    return Answer(
        recipe=rule.recipe,
        settings={"model.name": name, "data.image_size": side},
        reasons=(
            f"model {name}, recipe {rule.recipe}: {facts.images:,} images of {facts.classes} "
            f"classes and no weights to start from (--init); {rule.why}",
            f"images of {side} pixels (theirs are {facts.side}): with {time} on {device} every one "
            f"is seen about {affordable / cost(name, side) * rule.visits:,.0f} times",
        ),
    )


def cost(name: str, side: int) -> float:
    """Operations to train on one image: thrice those forward, two to a multiply-accumulate."""
    return 6.0 * footprint(find_config(name, image_size=side)).macs
