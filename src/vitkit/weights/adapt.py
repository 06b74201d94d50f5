"""Weights brought to a model of another size, with an account of every tensor."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.layers.position import Resize, resize_positions
from vitkit.models import build
from vitkit.models.backbone import Backbone, Config
from vitkit.models.vit import ViTConfig

Tensors = dict[str, Tensor]
Shape = tuple[int, ...]
Action = Literal["kept", "resized", "new", "ignored"]
BIAS_TABLE = "relative_position_bias_table"
LISTED = 12  # lines of a kind that a table shows


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one tensor."""

    action: Action
    name: str
    before: Shape | None
    after: Shape | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)

    def __str__(self) -> str:
        shapes = " -> ".join(_words(shape) for shape in (self.before, self.after) if shape)
        return f"{self.action:<8}  {self.name:<40}  {shapes}  {self.reason}".rstrip()


@dataclass(frozen=True, slots=True)
class Adapted:
    """Tensors for a model, and what became of those that there were."""

    tensors: Tensors  # without those that are new
    changes: tuple[Change, ...]

    def of(self, action: str) -> list[Change]:
        """The changes of one kind."""
        return [change for change in self.changes if change.action == action]

    def __str__(self) -> str:
        """A table: what was kept as one line, everything else by name."""
        kept = self.of("kept")
        numbers = sum(torch.Size(change.after or ()).numel() for change in kept)
        lines = [f"{'kept':<8}  {len(kept):,} tensors, {numbers:,} numbers"]
        for action in ("resized", "new", "ignored"):
            changes = self.of(action)
            lines += map(str, changes[:LISTED])
            if len(changes) > LISTED:
                lines.append(f"{action:<8}  and {len(changes) - LISTED:,} more")
        return "\n".join(lines)


def adapt(
    tensors: Mapping[str, Tensor],
    source: Config,
    target: Config,
    *,
    left: Mapping[str, Tensor] | None = None,
    resize: Resize = "bicubic_antialias",
    sure: bool = True,
) -> Adapted:
    """Tensors of a `source` model for a `target` one, and the account of them.

    Positions are resized, with the method of those who trained them, windows' tables too, colour
    channels summed or repeated, and a classifier of other classes is left out for a new one. `left`
    are tensors of the file that no layout asks for; `sure` says that the source's image size was
    told, not inferred.

    Raises:
        WeightsError: a tensor is missing, unexpected, or of a shape that none of this explains.
    """
    with torch.device("meta"):
        model = build(target)
    goals: Tensors = dict(model.state_dict())
    learned = {name for name, _ in model.named_parameters()}
    rest = dict(tensors)
    numbers = sum(tensor.numel() for tensor in tensors.values())  # a file may describe anything
    made: Tensors = {}
    changes: list[Change] = []
    problems: list[str] = []
    for name, goal in goals.items():
        origin = _origin(name, rest)
        tensor = rest.pop(origin, None)
        before, after = None if tensor is None else tuple(tensor.shape), tuple(goal.shape)
        other_classes = source.num_classes != target.num_classes
        if other_classes and _of_head(name, model):
            reason = f"for {target.num_classes:,} classes"
            changes.append(Change("new", name, before, after, reason))
        elif tensor is None and (name in learned or goal.numel() > numbers):
            problems.append(f"{name} is missing")
        elif tensor is None:
            changes.append(Change("new", name, None, after, "computed, not learned"))
        else:
            fitted, reason = fit(name, tensor, goal, source, target, resize, sure)
            if fitted is None:
                problems.append(reason)
                continue
            made[name] = fitted
            reason = reason or (f"was {origin}" if origin != name else "")
            action: Action = "kept" if fitted is tensor else "resized"
            changes.append(Change(action, name, before, after, reason))
    for name, tensor in rest.items():
        if not (_of_head(name, model) and not target.num_classes):
            problems.append(f"{name} is unexpected")
        changes.append(Change("ignored", name, tuple(tensor.shape), None, "the model has no head"))
    for name, tensor in (left or {}).items():
        changes.append(Change("ignored", name, tuple(tensor.shape), None, "no part of the logits"))
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise WeightsError(f"the weights do not fit the model: {'; '.join(problems[:3])}{more}")
    return Adapted(made, tuple(changes))


def fit(
    name: str,
    tensor: Tensor,
    goal: Tensor,
    source: Config,
    target: Config,
    resize: Resize,
    sure: bool,
) -> tuple[Tensor | None, str]:
    """A tensor in the shape of `goal`, and how; None, and why not, where nothing makes it so.

    Raises:
        WeightsError: a table of positions that may be of two grids.
    """
    if not (tensor.is_floating_point() or tensor.dtype == goal.dtype):
        return None, f"{name} has type {tensor.dtype}, which is no float"
    if name == "pos_embed" and isinstance(source, ViTConfig) and isinstance(target, ViTConfig):
        return fit_positions(tensor, goal, source, target, resize, sure)
    if tensor.shape == goal.shape:
        return tensor, ""
    if name.endswith(BIAS_TABLE) and tensor.ndim == 2 and tensor.shape[1] == goal.shape[1]:
        return fit_bias_table(tensor, goal)
    channels = (tensor.shape[1:2], goal.shape[1:2]) == (
        (source.in_channels,),
        (target.in_channels,),
    )
    if tensor.ndim == 4 and channels and tensor[:, :1].shape == goal[:, :1].shape:
        return fit_channels(tensor, target.in_channels)
    return None, f"{name} has shape {tuple(tensor.shape)}, not {tuple(goal.shape)}"


def fit_positions(
    table: Tensor, goal: Tensor, source: ViTConfig, target: ViTConfig, resize: Resize, sure: bool
) -> tuple[Tensor | None, str]:
    """A position table for another grid: (1, P + N, D) -> (1, P + N', D)."""
    prefix = source.num_prefix_tokens if source.prefix_positions else 0
    if table.ndim != 3 or table.shape[1] != prefix + source.grid[0] * source.grid[1]:
        grid = "x".join(map(str, source.grid))
        return None, f"pos_embed has shape {tuple(table.shape)}, which is no grid of {grid}"
    if source.grid == target.grid and table.shape == goal.shape:
        return table, ""
    if table.shape == goal.shape and not sure:
        grids = " or ".join("x".join(map(str, c.grid)) for c in (source, target))
        raise WeightsError(
            f"pos_embed may be of a grid of {grids}: the file does not say its image size; "
            "say it with --source-size, or init_size in Python"
        )
    resized = resize_positions(table, source.grid, target.grid, prefix=prefix, method=resize)
    if resized.shape != goal.shape:
        return None, f"pos_embed has shape {tuple(table.shape)}, not {tuple(goal.shape)}"
    grids = " -> ".join("x".join(map(str, c.grid)) for c in (source, target))
    return resized, f"{grids}, {resize}"


def fit_bias_table(table: Tensor, goal: Tensor) -> tuple[Tensor | None, str]:
    """Relative positions for another window, bicubic as in Swin's own code: (M, H) -> (M', H)."""
    old, new = (math.isqrt(len(t)) for t in (table, goal))
    if old * old != len(table) or new * new != len(goal):
        return None, f"{BIAS_TABLE} has shape {tuple(table.shape)}, not {tuple(goal.shape)}"
    square = table.T.reshape(1, -1, old, old)  # (1, H, 2 w - 1, 2 w - 1)
    square = F.interpolate(square.float(), size=(new, new), mode="bicubic")
    resized = square.flatten(2)[0].T.to(table.dtype).contiguous()
    return resized, f"window {(old + 1) // 2} -> {(new + 1) // 2}, bicubic"


def fit_channels(kernel: Tensor, channels: int) -> tuple[Tensor, str]:
    """A first convolution for other channels, its answer to grey kept: (D, C, p, p).

    One channel gets the sum of all; several get those there were in turn, scaled.
    """
    given = kernel.shape[1]
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True), f"{given} channels summed"
    repeated = kernel.repeat(1, -(-channels // given), 1, 1)[:, :channels]
    return repeated * (given / channels), f"{given} channels repeated, times {given}/{channels}"


def _origin(name: str, tensors: Tensors) -> str:
    """The name under which a tensor comes: the last norm of another pool is the same norm."""
    for ours, other in (("fc_norm.", "norm."), ("norm.", "fc_norm.")):
        renamed = other + name.removeprefix(ours)
        if name.startswith(ours) and name not in tensors and renamed in tensors:
            return renamed
    return name


def _of_head(name: str, model: Backbone) -> bool:
    return name.startswith(tuple(f"{head}." for head in model.classifiers))


def _words(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
