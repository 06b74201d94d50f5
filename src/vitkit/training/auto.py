"""Which model, size of images and recipe suit the data, the device and the time: `--model auto`.

The rules are the field's: few images need the built-in knowledge of convolutions (a stem of them
was worth more than a CNN: docs/log.md), or weights that saw many; a plain transformer pays once
there is much data (arXiv:2010.11929, section 4.3; arXiv:2106.14881; arXiv:2104.05704).
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import Any

import torch

from vitkit.data.loader import default_workers
from vitkit.data.sources import Source
from vitkit.errors import ConfigError
from vitkit.models import find_config
from vitkit.models.cost import footprint
from vitkit.runtime.device import choose_device, choose_precision, gains_from_bf16
from vitkit.training.dataset import to_train_on
from vitkit.training.reading import LOOKED_AT
from vitkit.training.settings import DataSettings, TrainSettings
from vitkit.weights.hub import at_hand

SIDES = (224, 192, 160, 128, 96, 64, 48, 32)  # pixels that an image may be brought to
COMPACT = "vitc_compact_32"
CORE_FLOPS, GPU_FLOPS = 5e10, 5e13  # a second, that training reaches on one core, on one GPU
BF16_CORE_FLOPS = 1.2e11  # on a core that multiplies in bfloat16
UNCOUNTED = 1_000_000  # images that a source may have which does not tell
TRAINING = 6.0  # operations to train on an image for each multiply-accumulate forward
NO_HURRY = 60.0  # minutes that a run which is given none is chosen for
STRONG = {  # where few images are seen so often that they would be learned by heart (docs/log.md)
    "batch_size": 48,
    "augment.shift": 0.0,
    "augment.scale": (0.35, 1.0),
    "augment.policy": "trivialaugment",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What is trained from scratch on at most so many images of at most that size."""

    images: float  # to train on
    side: float  # pixels, the shorter one
    models: tuple[str, ...]  # in the order of preference: the first that the time is enough for
    recipe: str
    visits: int  # that every image should get at least
    why: str
    least: int = SIDES[-1]  # pixels that an image is brought to, for there to be tokens enough
    beyond: Mapping[str, Any] = field(default_factory=dict)  # the recipe, given so many visits


RULES = (
    Rule(
        *(10_000, inf, (COMPACT,), "small", 20, "few images: convolutions before attention"),
        beyond=STRONG,
    ),
    Rule(1_000_000, inf, (COMPACT,), "small", 4, "a mid-sized set: a convolutional stem"),
    Rule(inf, 80, (COMPACT,), "small", 4, "small images: a convolutional stem"),
    Rule(inf, inf, ("vit_small_patch16_224", "vit_tiny_patch16_224"), "deit", 30, "much data", 96),
)

TO_TUNE = (  # what is taken of weights at hand, the first that the time is enough for
    "vit_small_patch16_224",
    "deit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
)
TUNED_ON = 1_000_000  # images at most; more teach a model what weights would bring
TUNING_VISITS = 3  # that every image should get at least


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides."""

    images: int  # to train on; 0: nobody has counted them
    classes: int
    side: int  # pixels, the shorter one, of the middle image


@dataclass(frozen=True, slots=True)
class Answer:
    """What is chosen, and why."""

    recipe: str
    settings: Mapping[str, Any]
    reasons: tuple[str, ...]


def look_at(source: Source, settings: DataSettings) -> Facts:
    """Count the images of a source that are trained on, and ask some for their size."""
    sides = [min(image.shape[:2]) for image in source.some(LOOKED_AT)]
    side = round(median(sides)) if sides else SIDES[0]
    if source.trained_on:  # however many of them an epoch shows
        settings = settings.model_copy(update={"epoch_images": None})
    return Facts(to_train_on(source, settings), len(source.classes), side)


def choose(facts: Facts, given: TrainSettings, recipe: str | None) -> Answer:
    """Model, size of images and recipe for a run from scratch, with two lines that say why.

    The size is the largest, up to that of the images, at which every image is seen often enough in
    the time that there is. A `given` size or `recipe` stays.

    Raises:
        ConfigError: the given size is none for the model.
    """
    images = facts.images or inf
    rule = next(r for r in RULES if images <= r.images and facts.side <= r.side)
    device = choose_device(given.device)
    minutes = given.minutes or NO_HURRY
    speed = flops(device, given)
    seconds = 60 * minutes / (facts.images or UNCOUNTED)  # for one image
    sides = [(s, s) for s in SIDES if rule.least <= s <= max(facts.side, rule.least)]
    fixed = given.data.image_size
    options = [(name, size) for name in rule.models for size in ([fixed] if fixed else sides)]
    enough = (o for o in options if cost(*o) * rule.visits <= speed * seconds)
    name, size = next(enough, options[-1])
    visits = speed * seconds / cost(name, size)
    beyond = rule.beyond if recipe is None and visits >= rule.visits else {}
    recipe = rule.recipe if recipe is None else recipe
    counted = f"{facts.images:,} images to train on" if facts.images else "uncounted images"
    show, hint = ("show", "") if given.minutes else ("would show", "; minutes= sets the time")
    return Answer(
        recipe=recipe,
        settings={"model.name": name, **beyond} | ({} if fixed else {"data.image_size": size}),
        reasons=(
            f"model {name}, recipe {recipe}: {counted}, {facts.classes} classes and no weights to "
            f"start from (--init); {rule.why}",
            f"images of {size[0]}x{size[1]} pixels (theirs have {facts.side}): {minutes:g} minutes "
            f"on {device} {show} each about {visits:,.0f} times{hint}",
        ),
    )


def weights_for(facts: Facts, given: TrainSettings) -> str | None:
    """Weights to start from that this machine holds and there is time to tune; None: none such."""
    if not 0 < facts.images <= TUNED_ON:
        return None
    seconds = 60 * (given.minutes or NO_HURRY) / facts.images
    enough = flops(choose_device(given.device), given) * seconds / TUNING_VISITS
    for name, directory in at_hand(TO_TUNE).items():
        with contextlib.suppress(ConfigError):  # no size for this model
            if cost(name, given.data.image_size or SIDES[0]) <= enough:
                return str(directory)
    return None


def flops(device: torch.device, given: TrainSettings) -> float:
    """Operations a second that training reaches on a device, roughly."""
    if device.type == "cuda":
        return GPU_FLOPS
    fast = gains_from_bf16(device) and choose_precision(device, given.precision) == "bf16"
    return (BF16_CORE_FLOPS if fast else CORE_FLOPS) * (given.threads or default_workers())


def cost(name: str, size: int | tuple[int, int]) -> float:
    """Operations to train on one image: thrice those forward, two to a multiply-accumulate."""
    return TRAINING * footprint(find_config(name, image_size=size)).macs
