"""Does a map depend on what the model has learned? Its parts are forgotten one after the other."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.explain.methods import explain_batch, find_method, methods_for
from vitkit.explain.ranks import ranks
from vitkit.explain.target import Target
from vitkit.models import build
from vitkit.models.backbone import Backbone
from vitkit.progress import Listener, Progress, silent

UNMOVED = 0.9  # a correlation above which a map has not changed


@dataclass(frozen=True, slots=True)
class Cascade:
    """How a method's maps change as a model forgets from the head down."""

    method: str
    parts: tuple[str, ...]  # what was made random, in turn, with all before it
    correlations: tuple[float, ...]  # with the first maps after each part: means over images

    @property
    def looks_at_the_model(self) -> bool:
        """Whether maps of a model that has forgotten all differ from the first ones."""
        return self.correlations[-1] < UNMOVED

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "looks_at_the_model": self.looks_at_the_model}


def randomise(
    model: Backbone,
    x: Tensor,
    target: Target,
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    listen: Listener = silent,
) -> tuple[Cascade, ...]:
    """Compare the maps of (B, C, H, W) with those of a model that loses its parts: by method.

    Cascading randomisation (arXiv:1810.03292, section 3): head, blocks from the last to the first,
    and embedding go back to what they are before training, drawn by `seed`, and stay so; the model
    itself is not changed. Maps are compared by the rank correlation of their cells (Spearman), 1
    for the same order. A method that does not ask for a class is not moved by the head.

    Raises:
        ConfigError: an unknown method or option.
    """
    names = methods_for(model) if methods is None else methods
    chosen = {name: dict((options or {}).get(name, {})) for name in names}
    for name in {**(options or {}), **chosen}:
        find_method(name, chosen.get(name))

    def maps(of: Backbone) -> dict[str, NDArray[np.float32]]:
        return {n: explain_batch(of, x, n, target, **chosen[n]).cpu().numpy() for n in names}

    first = maps(model)
    found: dict[str, list[float]] = {name: [] for name in names}
    parts: list[str] = []
    total = len(set(model.layer_of_parameters().values()))
    for part, forgetful in _cascade(model, seed):
        for name, grids in maps(forgetful).items():
            pairs = zip(first[name], grids, strict=True)
            found[name].append(float(np.mean([rank_correlation(a, b) for a, b in pairs])))
        parts.append(part)
        listen(Progress("randomise", len(parts), total))
    return tuple(Cascade(name, tuple(parts), tuple(found[name])) for name in names)


def _cascade(model: Backbone, seed: int) -> Iterator[tuple[str, Backbone]]:
    """What was made random last, and a model, always the same, with that and all above random."""
    forgetful = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = build(model.config).state_dict()
    layers = model.layer_of_parameters()
    for layer in sorted(set(layers.values()), reverse=True):
        names = {name for name, of in layers.items() if of == layer}
        modules = {name.rpartition(".")[0] for name in names}
        state = forgetful.state_dict()
        for name in state:
            if name in names or (name not in layers and name.rpartition(".")[0] in modules):
                state[name].copy_(fresh[name])
        yield _part(layer, max(layers.values())), forgetful


def _part(layer: int, last: int) -> str:
    if layer == last:
        return "head"
    return f"block {layer}" if layer else "embedding"


def rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Spearman's correlation of two maps; equal values share the mean of their ranks.

    1 if the maps are the same, even if they are constant; else 0 if one of them is constant.
    """
    if np.array_equal(one, other):
        return 1.0
    a, b = (ranks(each.ravel()) for each in (one, other))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0
