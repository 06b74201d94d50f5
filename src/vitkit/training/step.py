"""One step: augment, mix, forward, loss, backward, and the optimiser's step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.data.augment.pipeline import Augment
from vitkit.data.mix import Mix
from vitkit.data.transforms import Preprocess
from vitkit.models.backbone import Backbone
from vitkit.models.deit import DeiT
from vitkit.runtime.device import autocast
from vitkit.training.distill import Teacher
from vitkit.training.distributed import SOLO, Group
from vitkit.training.ema import WeightAverage
from vitkit.training.losses import loss_of
from vitkit.training.parallel import exchanging, running_statistics
from vitkit.training.schedule import Pace, learning_rate
from vitkit.training.settings import TrainSettings

Network = Callable[[Tensor], tuple[Tensor, ...]]

APART = 998_244_353  # between the random seeds of ranks


@dataclass(frozen=True, slots=True)
class Learner:
    """What a step changes, and how it computes."""

    model: Backbone
    network: Network  # (B, C, h, w) -> the model's heads, each (B, K); perhaps compiled
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # does something in float16 only
    average: WeightAverage | None
    teacher: Teacher | None
    preprocess: Preprocess
    device: torch.device
    settings: TrainSettings
    group: Group = SOLO  # those who take the same steps
    plain: Backbone | None = None  # where the model is sharded, a whole one on the first rank

    @property
    def predictor(self) -> Backbone:
        """The weights to predict with."""
        return self.model if self.average is None else self.average.model


class Heads(nn.Module):
    """What learns: both heads of a distilled model, or the one of any other."""

    def __init__(self, model: Backbone, *, taught: bool) -> None:
        super().__init__()
        self.model = model
        self.two = taught and isinstance(model, DeiT)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.two:
            assert isinstance(self.model, DeiT)
            return self.model.forward_both(x)
        return (self.model(x),)


@dataclass(frozen=True, slots=True)
class Result:
    """What a step gave."""

    totals: Tensor  # (2,) sums of the whole batch's losses and of its hits, on the device
    finite: bool  # False: loss or gradient was not, and nothing was learned


def train_step(
    learner: Learner, images: Tensor, labels: Tensor, pace: Pace, *, size: int | None = None
) -> Result:
    """Learn from one batch, (B, C, h, w) uint8 and (B,), on any device.

    Of many ranks each gets its share, and all learn from the whole, which has `size` images. A step
    whose loss or gradient is not finite on one of them changes nothing.
    """
    settings, optimizer, group = learner.settings, learner.optimizer, learner.group
    size = len(images) if size is None else size
    seed = (settings.seed + 1) * 1_000_000_007 + pace.step + group.rank * APART
    torch.manual_seed(seed)  # what is drawn below
    set_rate(optimizer, learning_rate(settings, pace))
    statistics = [buffer.clone() for buffer in learner.model.buffers()]
    totals = torch.zeros(2, device=learner.device)
    optimizer.zero_grad(set_to_none=True)
    count = min(settings.accumulate, size // group.ranks)  # as many parts on every rank
    parts = zip(images.tensor_split(count), labels.tensor_split(count), strict=True)
    for number, (some, their) in enumerate(parts, 1):
        share = len(some) * group.ranks / size  # of the mean over ranks that gradients become
        with exchanging(learner.network, learner.model, number == count):
            totals += backward(learner, some, their, pace, share=share)
    group.sum(totals)
    learner.scaler.unscale_(optimizer)
    limit = settings.clip_grad or torch.inf
    norm = nn.utils.clip_grad_norm_(learner.model.parameters(), limit)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of shards
    finite = bool(torch.isfinite(norm + totals[0]))
    if finite:
        learner.scaler.step(optimizer)
        group.follow_first(running_statistics(learner.model))
        if learner.average is not None:
            learner.average.update(learner.model, pace.step)
    else:
        for buffer, before in zip(learner.model.buffers(), statistics, strict=True):
            buffer.copy_(before)
    learner.scaler.update()
    return Result(totals, finite)


def backward(
    learner: Learner, images: Tensor, labels: Tensor, pace: Pace, *, share: float
) -> Tensor:
    """Add the gradients of a part of a batch, a `share` of it: its losses and hits, (2,)."""
    x, targets = model_input(learner, images.to(learner.device), labels.to(learner.device), pace)
    taught = None if learner.teacher is None else learner.teacher(x, learner.preprocess)
    with autocast(learner.device, learner.settings.precision):
        heads = learner.network(x)
    heads = tuple(head.float() for head in heads)
    loss = loss_of(heads, targets, taught, learner.settings)
    learner.scaler.scale(loss * share).backward()
    hits = heads[0].argmax(dim=-1) == targets.argmax(dim=-1)
    return torch.stack([loss.detach() * len(images), hits.sum()])


def model_input(
    learner: Learner, images: Tensor, labels: Tensor, pace: Pace
) -> tuple[Tensor, Tensor]:
    """Images changed at random, normalised, erased, mixed; the shares of their classes, (B, K)."""
    settings = learner.settings
    late = pace.share >= settings.augment.until
    augment: Augment = settings.augment.pipeline(late=late)
    x = augment.erased(learner.preprocess.normalise(augment(images)))
    targets = F.one_hot(labels, learner.model.num_classes).float()
    if pace.share < settings.mix.until:
        mix: Mix = settings.mix.mixer()
        x, targets = mix(x, targets)
    return x, targets


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its rate: `rate` times the group's own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
