"""The settings of a new run: what was given, and what is chosen where nothing was."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from vitkit.data.sources import Source
from vitkit.errors import ConfigError
from vitkit.models import CONFIGS, FAMILIES, find_config
from vitkit.models.cnn import CNN
from vitkit.progress import Listener, silent
from vitkit.training.auto import choose, look_at, weights_for
from vitkit.training.config import (
    AUTO,
    FOLLOWS,
    NO_RECIPE,
    Choice,
    Resolved,
    architecture_of,
    parse,
    resolve,
    without_model,
)
from vitkit.training.dataset import open_data
from vitkit.training.recipe import read_recipe
from vitkit.weights import store
from vitkit.weights.pretrained import load_for

SAME = (
    "mean",
    "std",
    "interpolation",
    "crop_mode",
)  # of the weights' preprocessing, for the data too


def plan(
    data: str | Path | Source,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    origin: str = "command line",
    listen: Listener = silent,
) -> Resolved:
    """Resolved settings for DATA, from overrides that may leave model and recipe open.

    With `init` the model is that of the weights, and the recipe `finetune`. Else a model that is
    not given, or `auto`, is that of the given recipe, or chosen for the data together with a recipe
    or with weights that this machine holds; a given one gets the recipe of its kind: `cnn` for
    CNNs, `small` for transformers. With the recipe `none` all else that is not given keeps its
    default.

    Raises:
        ConfigError, DataError, CheckpointError, WeightsError: with one line that says what to
            change.
    """
    given = parse(overrides)
    if given.get("model.name") == AUTO:
        del given["model.name"]
    settled, recipe = without_model(given), given.get("recipe")
    own = {} if recipe in (None, NO_RECIPE) else read_recipe(str(recipe))[1]
    name = given.get("model.name")
    chosen: dict[str, Choice] = {}
    reasons: tuple[str, ...] = ()
    facts, init = None, settled.init
    if init is None and name is None and "model.name" not in own:
        facts = look_at(open_data(data, settled.data), settled.data)
        free = recipe is None and not any(key.startswith("model.") for key in given)
        init = weights_for(facts, settled) if free else None
    if init is not None:
        chosen = of_weights(init, name, listen)
        if settled.init is None:
            chosen["init"] = Choice(init, AUTO)
        if settled.data.image_size is not None:
            chosen.pop("data.image_size", None)
        recipe = recipe or "finetune"
        reasons = of_start(init, chosen, recipe, at_hand=settled.init is None)
    elif facts is not None:
        answer = choose(facts, settled, recipe)
        chosen = {key: Choice(value, AUTO) for key, value in answer.settings.items()}
        recipe, reasons = answer.recipe, answer.reasons
    elif name is not None:
        recipe = recipe or recipe_for(str(name))
    return replace(resolve(given, recipe=recipe, chosen=chosen, origin=origin), reasons=reasons)


def of_start(
    init: str, chosen: Mapping[str, Choice], recipe: Any, *, at_hand: bool
) -> tuple[str, ...]:
    """Why a run from weights is as it is, in two lines."""
    hint = "; this machine has them (--recipe small begins without)" if at_hand else ""
    name = chosen["model.name"].value
    size = chosen.get("data.image_size")
    as_there = "are brought to the size given, or the model's own"
    if size is not None:
        as_there = "of {}x{} pixels, as they were trained on".format(*size.value)
    return (
        f"model {name}, recipe {recipe}: the weights of {init} need no large set{hint}",
        f"images {as_there}; the classifier is made anew for classes that they do not know",
    )


def recipe_for(name: str) -> str:
    """What a model that is to be trained from scratch is trained with."""
    config = find_config(architecture_of(name))
    return "cnn" if issubclass(FAMILIES[type(config)], CNN) else "small"


def of_weights(init: str, name: Any, listen: Listener) -> dict[str, Choice]:
    """The model that weights are of, with what their logits depend on; their size of images too.

    Raises:
        ConfigError: a model of another family is named beside them.
        CheckpointError, WeightsError: they cannot be read.
    """
    if name is None:
        stored = store.load(init, listen=listen)
    else:
        stored = load_for(str(name), init, None, listen)
        if type(find_config(architecture_of(name))) is not type(stored.config):
            raise ConfigError(
                f"init={init} is a {stored.architecture}, which is no kind of {name}; leave the "
                "model out"
            )
    own = CONFIGS[stored.architecture]
    values: dict[str, Any] = {"model.name": stored.architecture if name is None else name}
    if name is None or architecture_of(name) == stored.architecture:
        values |= {
            f"model.{field.name}": getattr(stored.config, field.name)
            for field in fields(own)
            if field.name not in FOLLOWS
            and getattr(stored.config, field.name) != getattr(own, field.name)
        }
        values["data.image_size"] = stored.config.image_size
    for key in SAME:
        if key in stored.preprocess:
            values[f"data.{key}"] = stored.preprocess[key]
    if "crop_pct" in stored.preprocess:
        values["data.crop"] = stored.preprocess["crop_pct"]
    return {key: Choice(value, "init") for key, value in values.items()}
