"""The training loop: batch, augment, forward, loss, backward, step, average, evaluate, save."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.data.augment import random_mirror, random_shift
from vitkit.data.transforms import Preprocess
from vitkit.errors import ConfigError
from vitkit.models.backbone import Backbone
from vitkit.progress import Listener, Progress
from vitkit.runtime.device import autocast
from vitkit.runtime.engine import Engine
from vitkit.training.checkpoint import Position
from vitkit.training.config import TrainSettings
from vitkit.training.ema import WeightAverage
from vitkit.training.schedule import warmup_cosine

EVALUATION_BATCH = 64  # images
LISTEN_EVERY = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Examples:
    """Images in memory, and which of them belong to a split."""

    images: Tensor  # (N, C, h, w) uint8, shared by all splits
    labels: Tensor  # (N,) int64
    rows: Tensor  # (n,) int64, the rows of this split

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Learner:
    """What a step changes, and how it computes."""

    model: Backbone
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    preprocess: Preprocess
    device: torch.device
    settings: TrainSettings

    @property
    def predictor(self) -> Backbone:
        """The weights to predict with."""
        return self.model if self.average is None else self.average.model


Row = dict[str, Any]  # the figures of an epoch, as in metrics.jsonl


def fit(
    learner: Learner,
    train: Examples,
    val: Examples,
    position: Position,
    *,
    on_epoch: Callable[[Row, bool], None],
    listen: Listener,
    stop: Callable[[], bool],
) -> bool:
    """Train from `position` to the last epoch; False if `stop` ended it, be it after that one.

    After every epoch `on_epoch` gets its figures, and whether its weights are the best so far.
    """
    settings = learner.settings
    steps = steps_per_epoch(len(train), settings)
    while position.step < steps * settings.epochs:
        if not train_epoch(learner, train, position, listen=listen, stop=stop):
            return False
        epoch = position.step // steps
        row = epoch_figures(learner, epoch, position)
        row["images_per_second"] = position.seen / position.epoch_seconds
        started = time.perf_counter()
        row["val_loss"], row["val_top1"] = validate(learner, val)
        _check_finite(row["val_loss"], epoch, settings)
        position.seconds += time.perf_counter() - started
        row["seconds"] = position.seconds
        is_best = row["val_top1"] is None or row["val_top1"] >= position.best_top1
        if is_best and row["val_top1"] is not None:
            position.best_top1 = row["val_top1"]
        position.start_epoch()
        on_epoch(row, is_best)
        listen(_epoch_line(settings, row))
        if stop():
            return False
    return True


def steps_per_epoch(images: int, settings: TrainSettings) -> int:
    """Batches that hold every image once."""
    return -(-images // settings.batch_size)


def train_epoch(
    learner: Learner,
    train: Examples,
    position: Position,
    *,
    listen: Listener,
    stop: Callable[[], bool],
) -> bool:
    """The rest of the epoch in which `position` stands; False if `stop` ended it before."""
    settings = learner.settings
    steps = steps_per_epoch(len(train), settings)
    epoch, done = divmod(position.step, steps)
    sums = [position.loss_sum, position.correct]
    totals = torch.tensor(sums, dtype=torch.float64, device=learner.device)
    started = spoke = time.perf_counter()
    before = dataclasses.replace(position)
    learner.model.train()
    for rows in batches(train, settings, epoch)[done:]:
        totals += train_step(learner, train, rows, position.step, steps)
        position.step += 1
        position.seen += len(rows)
        now = time.perf_counter()
        position.seconds = before.seconds + now - started
        position.epoch_seconds = before.epoch_seconds + now - started
        if now - spoke > LISTEN_EVERY or position.seen == len(train):
            spoke = now
            fetch_totals(totals, position, epoch, settings)
            rate = (position.seen - before.seen) / (now - started)
            listen(_progress(settings, train, epoch, position, rate))
        if stop() and position.seen < len(train):
            fetch_totals(totals, position, epoch, settings)
            return False
    return True


def fetch_totals(totals: Tensor, position: Position, epoch: int, settings: TrainSettings) -> None:
    """Bring the sums of the epoch from the device.

    Raises:
        ConfigError: the loss is not finite any more.
    """
    position.loss_sum, position.correct = totals.tolist()
    _check_finite(position.loss_sum, epoch + 1, settings)


def _check_finite(loss: float | None, epoch: int, settings: TrainSettings) -> None:
    if loss is not None and not math.isfinite(loss):
        raise ConfigError(
            f"the loss became {loss} in epoch {epoch}; "
            f"lr={settings.lr} may be too high, try lr={settings.lr / 3:.1g}"
        )


def batches(train: Examples, settings: TrainSettings, epoch: int) -> list[Tensor]:
    """Rows of each batch of an epoch, in an order that only seed and epoch decide.

    Every row comes once; sizes differ by one at most, so that no small batch is left at the end.
    """
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    order = train.rows[torch.randperm(len(train), generator=generator)]
    return list(order.tensor_split(steps_per_epoch(len(train), settings)))


def train_step(learner: Learner, train: Examples, rows: Tensor, step: int, steps: int) -> Tensor:
    """One batch and one step of the optimiser: the sums of its losses and of its hits, (2,)."""
    settings = learner.settings
    torch.manual_seed((settings.seed + 1) * 1_000_000_007 + step)  # whatever is drawn below
    for group in learner.optimizer.param_groups:
        group["lr"] = learning_rate(settings, step, steps)
    labels = train.labels[rows].to(learner.device)
    images = augment(train.images[rows].to(learner.device), settings)
    with autocast(learner.device, settings.precision):
        logits = learner.model(learner.preprocess.normalise(images))
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if settings.clip_grad:
        torch.nn.utils.clip_grad_norm_(learner.model.parameters(), settings.clip_grad)
    learner.optimizer.step()
    if learner.average is not None:
        learner.average.update(learner.model, step)
    hits = (logits.argmax(dim=-1) == labels).sum()
    return torch.stack([loss.detach() * len(rows), hits])


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """The rate of a step, of `steps` in an epoch."""
    total = steps * settings.epochs
    warmup = min(round(settings.warmup_epochs * steps), total // 2)
    return warmup_cosine(
        step, total=total, warmup=warmup, peak=settings.lr, last=min(settings.min_lr, settings.lr)
    )


def augment(images: Tensor, settings: TrainSettings) -> Tensor:
    """Random changes of a batch: (B, C, h, w) uint8 -> the same."""
    if settings.augment.mirror:
        images = random_mirror(images)
    if settings.augment.shift:
        images = random_shift(images, settings.augment.shift)
    return images


def epoch_figures(learner: Learner, epoch: int, position: Position) -> Row:
    """What is written of an epoch that has just been trained."""
    return {
        "epoch": epoch,
        "step": position.step,
        "lr": learner.optimizer.param_groups[0]["lr"],
        "train_loss": position.loss_sum / position.seen,
        "train_top1": position.correct / position.seen,
    }


def validate(learner: Learner, val: Examples) -> tuple[float | None, float | None]:
    """Cross-entropy and top-1 of the weights to predict with; None without images."""
    if not len(val):
        return None, None
    precision = learner.settings.precision
    engine = Engine(
        learner.predictor, learner.preprocess, device=learner.device, precision=precision
    )
    probabilities = torch.cat(list(predictions(engine, val)))
    labels = val.labels[val.rows]
    loss = F.nll_loss(probabilities.clamp_min(1e-12).log(), labels)
    return loss.item(), (probabilities.argmax(dim=-1) == labels).float().mean().item()


def predictions(engine: Engine, examples: Examples) -> Iterator[Tensor]:
    """Probabilities of a split batch by batch, (B, K), in the order of its rows."""
    for rows in examples.rows.split(EVALUATION_BATCH):
        yield engine.probabilities(examples.images[rows])


def _progress(
    settings: TrainSettings, train: Examples, epoch: int, position: Position, rate: float
) -> Progress:
    left = (settings.epochs - epoch) * len(train) - position.seen
    return Progress(
        phase=f"epoch {epoch + 1}/{settings.epochs}",
        done=position.seen,
        total=len(train),
        figures={
            "loss": f"{position.loss_sum / position.seen:.3f}",
            "top1": f"{position.correct / position.seen:>6.1%}",
            "img/s": f"{rate:,.0f}",
            "left": _clock(left / rate),
        },
    )


def _epoch_line(settings: TrainSettings, row: Row) -> Progress:
    figures = {"loss": f"{row['train_loss']:.3f}", "top1": f"{row['train_top1']:>6.1%}"}
    if row["val_top1"] is not None:
        figures |= {"val loss": f"{row['val_loss']:.3f}", "val top1": f"{row['val_top1']:>6.1%}"}
    figures["img/s"] = f"{row['images_per_second']:,.0f}"
    done = row["epoch"]
    phase = f"epoch {done}/{settings.epochs}"
    return Progress(phase, done, settings.epochs, figures, final=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
