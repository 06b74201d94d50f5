"""Where a run stands."""

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]  # the figures of an epoch, as in metrics.jsonl


@dataclass(slots=True)
class Position:
    """Steps, time and sums; all that `checkpoint` must save of them."""

    step: int = 0  # optimiser steps done
    seconds: float = 0.0  # spent in training, scoring and saving so far
    before: float = 0.0  # seconds spent on reading before the first step
    first_steps: int = 0  # steps that were the first of a process
    first_seconds: float = 0.0  # spent on these
    best_top1: float = -1.0  # on the validation split
    loss_sum: float = 0.0  # over the images since the last row of figures
    correct: float = 0.0
    seen: int = 0  # images since then
    left_out: int = 0  # images of steps since then that were not finite
    epoch_seconds: float = 0.0  # spent on steps since then
    image_seconds: float = 0.0  # that an image takes in a step
    scoring_seconds: float = 0.0  # that scoring and saving took the last time
    bad_steps: int = 0  # steps that were not finite, in all
    bad_in_a_row: int = 0  # and up to now

    def start_epoch(self) -> None:
        """Nothing has been seen since the last row of figures."""
        self.loss_sum, self.correct, self.seen, self.epoch_seconds = 0.0, 0.0, 0, 0.0
        self.left_out = 0
