"""The training loop: epochs of steps, scoring and saving, until the last step or the last minute.

What a step does is in `step.py`, and which images it gets in `sampling.py`.
"""

import dataclasses
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from vitkit.data.augment.levels import widest_float
from vitkit.errors import ConfigError
from vitkit.progress import Listener, Progress
from vitkit.runtime.device import choose_precision
from vitkit.runtime.engine import Engine
from vitkit.training.distributed import agreed
from vitkit.training.parallel import is_sharded
from vitkit.training.position import Position, Row
from vitkit.training.sampling import Split, sizes_of_batches, steps_per_epoch
from vitkit.training.saving import Saver
from vitkit.training.schedule import Pace, pace
from vitkit.training.scoring import scores
from vitkit.training.settings import TrainSettings
from vitkit.training.step import Learner, train_step
from vitkit.training.tune import set_training_mode

USUAL_RATES = {"adamw": 1e-3, "lamb": 3e-3, "sgd": 0.1, "muon": 2e-3}
LISTEN_EVERY = 0.1  # seconds
SCORING_SHARE = 0.05  # of a run by the clock goes into validation and saving, at most
FORWARD_SHARE = 0.4  # of the time of a training step that an image takes to be scored, at most
FLOAT32 = 2.5  # times as long does it take where steps are in 16 bits: scores never are


def fit(
    learner: Learner,
    train: Split,
    val: Split,
    saver: Saver,
    *,
    held_out: int = 0,
    listen: Listener,
    stop: Callable[[], bool],
) -> bool:
    """Train from the saver's position to the end; False if `stop` ended it before.

    What is reached is saved in between whenever that is due, but not at the end. After an epoch the
    `saver` gets its figures. By the clock, short epochs share a row; and time is left for the
    `held_out` images to be scored. Of many ranks all take the same steps and end together.

    Raises:
        Diverged: too many steps in a row had no finite loss or gradient.
        CheckpointError: the disk does not take what is to be saved.
        ConfigError: the validation loss is not finite.
    """
    settings, position, group = learner.settings, saver.position, learner.group
    steps, begun, asked = steps_per_epoch(len(train), settings), position.step, False
    slow = 1.0 if choose_precision(learner.device, settings.precision) == "fp32" else FLOAT32
    last = (held_out + 2 * len(val)) * FORWARD_SHARE * slow  # val for its figures and calibration
    check_time(settings, position)

    def wanted() -> bool:
        nonlocal asked
        asked = asked or stop()  # once is enough, also within the last step of an epoch
        return asked

    def now() -> Pace:
        return pace(settings, position, steps, reserve=last * position.image_seconds)

    while not now().finished:
        if not train_epoch(learner, train, saver, now, begun=begun, listen=listen, stop=wanted):
            return False
        if now().finished or worth_scoring(settings, position):
            started, before = time.perf_counter(), position.seconds
            row = epoch_figures(learner, position, steps)
            row["val_loss"], row["val_top1"] = validate(learner, val)
            _check_finite(row["val_loss"], position, settings)
            took = agreed(group, time.perf_counter() - started).seconds
            row["seconds"] = position.seconds = before + took
            is_best = row["val_top1"] is None or row["val_top1"] >= position.best_top1
            if is_best and row["val_top1"] is not None:
                position.best_top1 = row["val_top1"]
            position.start_epoch()
            saver.add_row(row, is_best=is_best)
            position.scoring_seconds = agreed(group, time.perf_counter() - started).seconds
            position.seconds = before + position.scoring_seconds
            listen(_epoch_line(settings, row, now(), position.before + position.seconds))
        elif agreed(group, save=saver.due(epoch=position.step // steps, scored=False)).save:
            started = time.perf_counter()
            saver.save()
            position.seconds += agreed(group, time.perf_counter() - started).seconds
        if agreed(group, stop=wanted()).stop:
            return False
    if position.bad_steps == position.step:
        raise Diverged(
            f"not one step had a finite loss and gradient; {likely_cause(position, settings)}"
        )
    return True


def check_time(settings: TrainSettings, position: Position) -> None:
    """Check that reading has left time to train.

    Raises:
        ConfigError: it has not.
    """
    if settings.minutes is not None and position.before >= 60 * settings.minutes:
        raise ConfigError(
            f"minutes={settings.minutes:g} were over when the images had been read, after "
            f"{position.before:,.0f} s; try minutes={math.ceil(position.before / 6) / 2 + 1:g}"
        )


def worth_scoring(settings: TrainSettings, position: Position) -> bool:
    """Whether an epoch gets a row: by the clock only one so long that scoring hardly counts."""
    if settings.minutes is None:
        return True
    return position.scoring_seconds <= SCORING_SHARE * position.epoch_seconds


def train_epoch(
    learner: Learner,
    train: Split,
    saver: Saver,
    now: Callable[[], Pace],
    *,
    begun: int,
    listen: Listener,
    stop: Callable[[], bool],
) -> bool:
    """The rest of the epoch in which the run stands; False if `stop` ended it before.

    This process has `begun` after so many steps of the run.

    Raises:
        Diverged: too many steps in a row had no finite loss.
    """
    settings, position = learner.settings, saver.position
    steps, sizes = steps_per_epoch(len(train), settings), sizes_of_batches(len(train), settings)
    epoch, done = divmod(position.step, steps)
    sums = [position.loss_sum, position.correct]
    totals = torch.tensor(sums, dtype=widest_float(learner.device), device=learner.device)
    started, spoke = time.perf_counter(), 0.0
    before = dataclasses.replace(position)
    first = Position()  # the first step of this process, if it falls into this epoch
    set_training_mode(learner.model)
    shown = train.epoch(settings, epoch, done=done)
    for left, size, batch in zip(range(steps - done)[::-1], sizes[done:], shown, strict=True):
        result = train_step(learner, *batch, now(), size=size)
        if result.finite:
            totals += result.totals
        count_step(position, size, result.finite, settings)
        said = agreed(learner.group, time.perf_counter() - started, stop=stop(), save=saver.due())
        position.seconds = before.seconds + said.seconds  # alike on all ranks, to the last bit
        if position.step == begun + 1:
            first.seen, first.seconds = size, said.seconds
            position.first_steps += 1
            position.first_seconds += said.seconds
        position.epoch_seconds = before.epoch_seconds + said.seconds
        if position.seen > first.seen:
            timed = position.epoch_seconds - first.seconds
            position.image_seconds = timed / (position.seen - first.seen)
        is_last = not left or now().finished
        if said.seconds - spoke > LISTEN_EVERY or is_last:
            spoke = said.seconds
            position.loss_sum, position.correct = totals.tolist()
            rate = (position.seen - before.seen) / said.seconds
            listen(_progress(settings, train, epoch, position, now(), rate))
        if is_last:
            return True
        if said.stop or said.save:
            position.loss_sum, position.correct = totals.tolist()
            saver.save()
        if said.stop:
            return False
    return True


def count_step(position: Position, images: int, finite: bool, settings: TrainSettings) -> None:
    """Note a step of `images`, and whether it was left out.

    Raises:
        Diverged: so were too many in a row.
    """
    position.step += 1
    position.seen += images
    position.bad_in_a_row = 0 if finite else position.bad_in_a_row + 1
    if not finite:
        position.left_out += images
        position.bad_steps += 1
    if position.bad_in_a_row >= settings.max_bad_steps:
        raise Diverged(
            f"loss or gradient was not finite in {position.bad_in_a_row} steps in a row, up to "
            f"step {position.step}; {likely_cause(position, settings)}"
        )


class Diverged(ConfigError):
    """Training that goes nowhere; the weights are still those of the last step that was finite."""


def likely_cause(position: Position, settings: TrainSettings) -> str:
    """Why losses are not finite, and what to do."""
    if settings.precision == "fp16":
        return "float16 overflows above 65,504; try precision=bf16"
    if position.bad_in_a_row == position.step and settings.init is not None:
        return "they never were: the weights of init may be damaged, or of another normalisation"
    usual = USUAL_RATES[settings.optimizer]
    lower = usual if settings.lr > 3 * usual else settings.lr / 3
    return f"lr={settings.lr:g} may be too high, try lr={lower:.1g}"


def _check_finite(loss: float | None, position: Position, settings: TrainSettings) -> None:
    """Refuse weights whose validation loss is not finite, before they are saved."""
    if loss is not None and not math.isfinite(loss):
        raise ConfigError(
            f"the validation loss became {loss} after step {position.step}; "
            f"{likely_cause(position, settings)}"
        )


def epoch_figures(learner: Learner, position: Position, steps: int) -> Row:
    """What is written of the steps since the last row."""
    learned = position.seen - position.left_out
    loss, correct = position.loss_sum, position.correct
    return {
        "epoch": -(-position.step // steps),
        "step": position.step,
        "lr": learner.optimizer.param_groups[0]["lr"],
        "train_loss": loss / learned if learned else None,
        "train_top1": correct / learned if learned else None,
        "bad_steps": position.bad_steps,
        "images_per_second": position.seen / position.epoch_seconds,
    }


def validate(learner: Learner, val: Split) -> tuple[float | None, float | None]:
    """Cross-entropy and top-1 of the weights to predict with; None without images."""
    if not len(val):
        return None, None
    precision = learner.settings.precision
    engine = Engine(
        learner.predictor, learner.preprocess, device=learner.device, precision=precision
    )
    size = (1, learner.preprocess.channels, *learner.preprocess.image_size)
    blank = torch.zeros(size, dtype=torch.uint8) if is_sharded(learner.predictor) else None
    probabilities, labels = scores(engine.probabilities, val, learner.group, blank=blank)
    loss = F.nll_loss(probabilities.clamp_min(1e-12).log(), labels)
    return loss.item(), (probabilities.argmax(dim=-1) == labels).float().mean().item()


def _phase(settings: TrainSettings, epoch: int) -> str:
    return f"epoch {epoch}" if settings.minutes else f"epoch {epoch}/{settings.epochs}"


def _progress(
    settings: TrainSettings,
    train: Split,
    epoch: int,
    position: Position,
    pace: Pace,
    rate: float,
) -> Progress:
    seen = max(position.seen - position.left_out, 1)
    figures = {
        "loss": f"{position.loss_sum / seen:.3f}",
        "top1": f"{position.correct / seen:>6.1%}",
        "img/s": f"{rate:,.0f}",
        "left": _clock(_left(settings, position, pace)),
    }
    if position.bad_steps:
        figures["left out"] = f"{position.bad_steps} steps"
    done = round(pace.share * 1000) if settings.minutes else position.seen
    total = 1000 if settings.minutes else len(train)
    return Progress(_phase(settings, epoch + 1), done, total, figures)


def _left(settings: TrainSettings, position: Position, pace: Pace) -> float:
    """Seconds until the end: of the time that was given, or of the steps that are left."""
    if settings.minutes is not None:
        return max(60 * settings.minutes - position.before - position.seconds, 0.0)
    timed, first = position.step - position.first_steps, position.first_seconds
    speed = timed / (position.seconds - first) if timed else position.step / position.seconds
    return (pace.total - pace.step) / speed


def _epoch_line(settings: TrainSettings, row: Row, pace: Pace, used: float) -> Progress:
    figures = {}
    if row["train_loss"] is not None:
        figures = {"loss": f"{row['train_loss']:.3f}", "top1": f"{row['train_top1']:>6.1%}"}
    if row["val_top1"] is not None:
        figures |= {"val loss": f"{row['val_loss']:.3f}", "val top1": f"{row['val_top1']:>6.1%}"}
    figures["img/s"] = f"{row['images_per_second']:,.0f}"
    if settings.minutes:
        figures["time"] = f"{_clock(used)} of {_clock(60 * settings.minutes)}"
    phase = _phase(settings, row["epoch"])
    return Progress(phase, pace.step, round(pace.total), figures, final=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
