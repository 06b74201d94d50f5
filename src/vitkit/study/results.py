"""What the runs of a study measured, read back from their directories."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from vitkit.errors import DataError
from vitkit.models import find_config
from vitkit.models.cost import footprint
from vitkit.training.directory import Run, resumed_settings
from vitkit.training.position import Row

Z_95 = 1.96  # standard errors on either side of 95 % of a normal distribution


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished run."""

    seed: int
    directory: Path
    top1: float  # on the held-out images, in [0, 1]
    images: int  # held out
    split: str  # which those are, in words
    history: tuple[Row, ...]
    parameters: int
    macs: int  # multiply-accumulates for one image
    tokens: int  # 0 in a model of convolutions

    @property
    def run(self) -> Run:
        """Its directory as that of a run."""
        return Run(self.directory)

    @property
    def epochs(self) -> int:
        """Epochs that were begun."""
        return int(self.history[-1]["epoch"])

    @property
    def seconds(self) -> float:
        """Of training, scoring and saving."""
        return float(self.history[-1]["seconds"])

    @property
    def images_per_second(self) -> float:
        """Of training, in the middle epoch by speed."""
        return float(median(row["images_per_second"] for row in self.history))

    def to_json(self) -> dict[str, Any]:
        """The figures of one run; its curves are in `metrics.jsonl` of its directory."""
        return {
            "seed": self.seed,
            "directory": self.directory.name,
            "top1": self.top1,
            "images": self.images,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """An arm of a study: its finished runs, one for each seed, at least one."""

    runs: tuple[Measured, ...]

    @property
    def top1(self) -> float:
        """Mean over the seeds."""
        return fmean(run.top1 for run in self.runs)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None of one."""
        return stdev(run.top1 for run in self.runs) if len(self.runs) > 1 else None

    @property
    def error(self) -> float:
        """Standard error of `top1`: of the draw of test images, or of training if that is larger.

        The former is that of one run, however many there are, since all may share their images. It
        counts one more hit and one more miss (Agresti and Caffo 2000), so that 100 % has one too.
        """
        images = self.runs[0].images
        share = (self.top1 * images + 1) / (images + 2)
        of_images = math.sqrt(share * (1 - share) / (images + 2))
        return max(of_images, (self.spread or 0.0) / math.sqrt(len(self.runs)))

    @property
    def margin(self) -> float:
        """Half of the 95 % interval of `top1`."""
        return Z_95 * self.error

    @property
    def seconds(self) -> float:
        """Mean time of a run."""
        return fmean(run.seconds for run in self.runs)

    @property
    def first(self) -> Measured:
        """The run with the first seed; model and cost are the same for all."""
        return self.runs[0]

    def to_json(self) -> dict[str, Any]:
        """Mean and spread, and each run."""
        return {
            "top1": self.top1,
            "spread": self.spread,
            "margin": self.margin,
            "parameters": self.first.parameters,
            "macs": self.first.macs,
            "tokens": self.first.tokens,
            "seconds": self.seconds,
            "runs": [run.to_json() for run in self.runs],
        }


Results = Mapping[str, Result]  # by the names of the arms


def measure(run: Run, seed: int) -> Measured:
    """The figures of a finished run.

    Raises:
        DataError: it had no image to be scored on.
        CheckpointError, ConfigError: its directory is damaged.
    """
    evaluation = run.evaluation
    if evaluation is None:
        raise DataError(
            f"{run.directory} has no held-out image to compare arms by; raise data.test_fraction"
        )
    settings = resumed_settings(run.directory, {}).settings
    classes = len(evaluation.classes)
    config = find_config(
        settings.architecture, **{**settings.config_overrides, "num_classes": classes}
    )
    cost = footprint(config)
    return Measured(
        seed=seed,
        directory=run.directory,
        top1=evaluation.top1,
        images=evaluation.images,
        split=evaluation.split,
        history=tuple(run.metrics),
        parameters=cost.parameters,
        macs=cost.macs,
        tokens=cost.tokens,
    )
