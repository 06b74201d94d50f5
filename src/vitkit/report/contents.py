"""What a report shows, as plain data: nothing here knows HTML, a model or a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitkit.data.audit import DataSummary
from vitkit.evaluation.metrics import Evaluation

if TYPE_CHECKING:  # a page can be made without torch
    from vitkit.report.findings import Shelf
    from vitkit.training.config import Setting

HistoryRow = Mapping[str, Any]  # one epoch, as a line of metrics.jsonl


@dataclass(frozen=True)
class Mistake:
    """An image (h, w, 3) uint8 RGB that got the wrong name."""

    name: str  # of the file
    image: NDArray[np.uint8]
    truth: str
    predicted: str
    confidence: float  # of the wrong name, in [0, 1]
    map: NDArray[np.uint8] | None = None  # what spoke for the wrong name, over the image


@dataclass(frozen=True)
class Look:
    """An image (h, w, 3) uint8 RGB, and what in it speaks for a class."""

    name: str  # of the file
    image: NDArray[np.uint8]
    method: str
    label: str
    score: float  # the share that the model gives it, in [0, 1]
    map: NDArray[np.uint8]  # over the image
    control: NDArray[np.uint8]  # the same of random numbers


@dataclass(frozen=True)
class Positions:
    """How alike the position embeddings are, and how far they follow the image's layout."""

    mosaic: NDArray[np.uint8]  # (h, w, 3)
    score: float  # in [-1, 1]
    chance: float  # one deviation of the scores of shuffled tables, around 0
    p_value: float
    learned: bool  # else they are fixed


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything the page shows; what is left out is left out of the page.

    Rows of `history` have `epoch`, `step`, `seconds`, `lr`, `train_loss`, `train_top1`, `val_loss`,
    `val_top1` and `images_per_second`; values may be missing, None or not finite, and of two rows
    for one epoch (a resumed run) the later counts.
    """

    title: str  # of the page: what was classified
    model: str
    parameters: int
    data: DataSummary
    evaluation: Evaluation
    split: str  # the one that was evaluated, "test" or "val"
    history: Sequence[HistoryRow] = ()
    mistakes: Sequence[Mistake] = ()  # any order
    samples: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)  # class -> (h, w, 3) RGB
    looks: Sequence[Look] = ()  # images that it was evaluated on
    positions: Positions | None = None  # None: the model has no position embeddings
    found: Sequence["Shelf"] = ()  # what a check of the images found
    near_leaks: int = 0  # images to test on that are nearly the same as one of an earlier split
    settings: Sequence["Setting"] = ()  # resolved, in order
    environment: Mapping[str, str] = field(default_factory=dict)  # versions, device, threads
    seconds: float | None = None  # of training
