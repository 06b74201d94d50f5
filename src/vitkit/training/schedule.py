"""How far a run has come, by its steps or by the clock, and the learning rate there."""

import math
from dataclasses import dataclass
from typing import Literal

from vitkit.training.position import Position
from vitkit.training.settings import TrainSettings

Shape = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True, slots=True)
class Pace:
    """Steps done, of how many; by the clock the latter are an estimate that every step renews."""

    step: int
    total: float

    @property
    def share(self) -> float:
        """How much of the run is behind."""
        return min(self.step / self.total, 1.0)

    @property
    def finished(self) -> bool:
        """Whether not one more step fits."""
        return self.step + 1 > self.total


def pace(settings: TrainSettings, position: Position, steps: int, *, reserve: float) -> Pace:
    """Where a run of `steps` in an epoch stands, `reserve` seconds of its time being for scoring.

    By the clock as many steps will have been done at the end as the time used so far foretells: a
    machine that slows down ends on time with a rate that has come down, all the same. The first
    step of a process, which may compile, tells nothing: after no other a guess are the epochs.
    """
    epochs = steps * settings.epochs
    if settings.minutes is None:
        return Pace(position.step, epochs)
    left = max(60 * settings.minutes - position.before - position.seconds - reserve, 0.0)
    if timed := position.step - position.first_steps:
        speed = timed / (position.seconds - position.first_seconds)
        return Pace(position.step, position.step + left * speed)
    return Pace(position.step, position.step + epochs * (left > 0 or not position.step))


def learning_rate(settings: TrainSettings, pace: Pace) -> float:
    """The rate of the next step."""
    warmup = min(round(settings.warmup_epochs / settings.epochs * pace.total), pace.total // 2)
    cooldown = min(settings.cooldown_epochs / settings.epochs, 0.5) * pace.total
    last = min(settings.min_lr, settings.lr)
    if cooldown and pace.step >= pace.total - cooldown:
        return last
    return rise_and_fall(
        pace.step,
        kind=settings.schedule,
        total=pace.total - cooldown,
        warmup=warmup,
        peak=settings.lr,
        last=last,
    )


def rise_and_fall(
    step: int,
    *,
    kind: Shape,
    total: float,
    warmup: float,
    peak: float,
    last: float,
) -> float:
    """Rise linearly to `peak` over `warmup` steps, then fall to `last` at the end, and stay there.

    The first step already learns: it has the rate `peak / warmup`. The fall is half a cosine
    (arXiv:1608.03983, eq. 5), a line, or none.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min((step - warmup) / max(total - 1 - warmup, 1), 1.0)
    height = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[kind]
    return last + (peak - last) * height
