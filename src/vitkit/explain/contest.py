"""Every method on the same images, each beside maps of random numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from operator import length_hint
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.faithfulness import (
    BLUR,
    STEPS,
    area,
    cell_of,
    deletion,
    insertion,
    pointing,
    widened,
)
from vitkit.explain.gradients import AT_ONCE
from vitkit.explain.methods import CONTROL, explain_batch, find_method, methods_for
from vitkit.explain.paired import FEWEST, Score, paired_score
from vitkit.explain.planted import Example
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone
from vitkit.progress import Listener, Progress, silent

HEAD = ("method", "deletion", "insertion", "pointing", "verdict")
Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How maps are put to the test; see `faithfulness` for what each number means."""

    steps: int = STEPS
    cell: int | None = None  # pixels; None: `cell_of`
    blur: float = BLUR
    tolerance: int = 0  # pixels


DEFAULT = Trial()


@dataclass(frozen=True, slots=True)
class Entry:
    """One method: means over all images, each beside that of random maps."""

    method: str
    images: int
    deletion: Score  # area under the curve in [0, 1]; less is better
    insertion: Score  # likewise; more is better
    pointing: Score | None = None  # share of images whose highest point lies on the object

    @property
    def scores(self) -> tuple[Score, ...]:
        """Those that were measured."""
        return (self.deletion, self.insertion, *([self.pointing] if self.pointing else []))

    @property
    def verdict(self) -> str:
        """Better than random where every interval says so; none of fewer than FEWEST images."""
        if self.method == CONTROL:
            return "chance"
        if self.images < FEWEST:
            return "too few images"
        return "better than random" if all(s.better for s in self.scores) else "not shown"

    @property
    def words(self) -> tuple[str, ...]:
        """What to print under HEAD: means, and in brackets the difference to random, 95 %."""
        scores = (self.deletion, self.insertion, self.pointing or "no masks")
        return self.method, *map(str, scores), self.verdict


@dataclass(frozen=True, slots=True)
class Contest:
    """What came out."""

    entries: tuple[Entry, ...]  # random maps last
    images: int
    chance: float | None  # share of the image that masks cover, with the tolerance; None: no masks
    trial: Trial

    def __getitem__(self, method: str) -> Entry:
        return next(entry for entry in self.entries if entry.method == method)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, by method: every score, and the verdict."""
        methods = {e.method: {**asdict(e), "verdict": e.verdict} for e in self.entries}
        for fields in methods.values():
            del fields["method"], fields["images"]
        about = {"images": self.images, "chance": self.chance, "trial": asdict(self.trial)}
        return {**about, "methods": methods}


def contest(
    model: Backbone,
    examples: Iterable[Example],
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    trial: Trial = DEFAULT,
    batch_size: int = AT_ONCE,
    listen: Listener = silent,
) -> Contest:
    """Put methods to the test, all that the model allows if None; random maps always take part.

    `options` are those of methods, by their names. The pointing game is played if every example has
    a mask. Besides the maps themselves it costs 2 * (steps + 1) passes for each method and image.

    Raises:
        ConfigError: no images, an unknown method or option, or a number out of range.
    """
    names = methods_for(model) if methods is None else methods
    names = [*(name for name in names if name != CONTROL), CONTROL]
    chosen = {name: dict((options or {}).get(name, {})) for name in names}
    for name in {**(options or {}), **chosen}:
        find_method(name, chosen.get(name))
    found: dict[str, list[Rows]] = {name: [] for name in names}
    covered: list[float] = []
    total, images = length_hint(examples), 0
    for batch in _batches(examples, batch_size):
        x, target, masks = _together(batch, next(model.parameters()).device)
        for name in names:
            maps = explain_batch(model, x, name, target, **chosen[name])
            found[name].append(_measure(model, x, target, maps, masks, trial))
        if masks is not None:
            covered += widened(masks, trial.tolerance).float().mean(dim=(1, 2)).tolist()
        images += len(batch)
        listen(Progress("faithfulness", images, max(total, images)))
    if not images:
        raise ConfigError("there is no image to test maps on; give 100 or more")
    rows = {name: np.concatenate(each) for name, each in found.items()}  # (n, 3) each
    with_masks = len(covered) == images
    entries = tuple(_entry(name, rows[name], rows[CONTROL], with_masks) for name in names)
    return Contest(entries, images, float(np.mean(covered)) if with_masks else None, trial)


def _batches(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    rest = iter(examples)
    while batch := list(islice(rest, size)):
        yield batch


def _together(
    batch: Sequence[Example], device: torch.device
) -> tuple[Tensor, Target, Tensor | None]:
    """Images (B, C, H, W), their classes, and masks (B, H, W) if all have one."""
    x = torch.stack([example.x for example in batch]).to(device)
    labels = torch.tensor([example.label for example in batch], device=device)
    masks = [torch.from_numpy(e.mask) for e in batch if e.mask is not None]
    all_have = len(masks) == len(batch)
    return x, Target(labels), torch.stack(masks).to(device) if all_have else None


def _measure(
    model: Backbone, x: Tensor, target: Target, maps: Tensor, masks: Tensor | None, trial: Trial
) -> Rows:
    """Deletion, insertion and pointing of every image, which is not a number without masks."""
    cell = cell_of(model, x) if trial.cell is None else trial.cell
    fallen = area(deletion(model, x, target, maps, steps=trial.steps, cell=cell))
    risen = area(insertion(model, x, target, maps, steps=trial.steps, cell=cell, blur=trial.blur))
    hits = torch.full_like(fallen, torch.nan)
    if masks is not None:
        hits = pointing(maps, masks, tolerance=trial.tolerance)
    rows: Rows = torch.stack([fallen, risen, hits], dim=1).double().cpu().numpy()
    return rows


def _entry(name: str, rows: Rows, chance: Rows, with_masks: bool) -> Entry:
    return Entry(
        name,
        len(rows),
        paired_score(rows[:, 0], chance[:, 0], lower_is_better=True),
        paired_score(rows[:, 1], chance[:, 1]),
        paired_score(rows[:, 2], chance[:, 2]) if with_masks else None,
    )
