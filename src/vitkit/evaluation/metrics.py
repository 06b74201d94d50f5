"""How good a classifier's answers are: one `Evaluation` from probabilities and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitkit.errors import ConfigError, DataError
from vitkit.evaluation import intervals as resampling
from vitkit.evaluation.calibration import Bin, calibration_error, reliability, uncalibrated
from vitkit.evaluation.intervals import Answers, Interval
from vitkit.evaluation.robustness import Robustness

SCORES = {  # the fields of an evaluation that are one number with an interval, in words
    "top1": "top-1",
    "top5": "top-5",
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "ece": "calibration error",
}
SUM_TOLERANCE = 0.02  # a softmax over 1,000 classes in bfloat16 stays within it; logits do not


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class, fractions in [0, 1]; 0 where the ratio is 0 / 0, as in sklearn."""

    images: int  # of this class in the split
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """The scores of one classifier on one split, fractions in [0, 1].

    `macro_f1` is the mean over the classes that occur as a label or as a prediction, as in sklearn:
    a class that the split does not hold and the model never names says nothing.
    `balanced_accuracy` is the mean recall of the classes that have images.
    """

    top1: float
    top5: float  # top-K where there are fewer than 5 classes, and so always 1
    macro_f1: float
    balanced_accuracy: float
    ece: float  # expected calibration error over 15 bins
    images: int
    classes: tuple[str, ...]
    per_class: dict[str, ClassScore]
    confusion: list[list[int]]  # (K, K) images; row: truth, column: prediction
    intervals: dict[str, Interval]  # 95 %, of each of the scores above: `intervals.intervals`
    reliability: tuple[Bin, ...]  # by rising confidence
    temperature: float = 1.0  # that logits were divided by
    ece_uncalibrated: float = 0.0  # what it would be at temperature 1
    robustness: Robustness | None = None  # None: not measured
    split: str = ""  # what was scored, in words: `in_words`
    unreadable: tuple[tuple[str, str], ...] = ()  # (name, reason) of images that were left out

    def to_json(self) -> dict[str, Any]:
        """What `vitkit eval --json` prints; `classes` are the keys of `per_class`, in order."""
        fields = asdict(self)
        del fields["classes"]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Evaluation":
        """The evaluation that `to_json` wrote.

        Raises:
            DataError: a key is missing or unknown.
        """
        try:
            per_class = {name: ClassScore(**score) for name, score in fields["per_class"].items()}
            robustness = fields.get("robustness")
            ours = {
                "classes": tuple(per_class),
                "per_class": per_class,
                "intervals": resampling.from_json(fields["intervals"]),
                "reliability": tuple(Bin(**place) for place in fields["reliability"]),
                "robustness": None if robustness is None else Robustness.from_json(robustness),
                "unreadable": tuple((name, why) for name, why in fields.get("unreadable", ())),
            }
            return cls(**{**fields, **ours})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"not an evaluation: {error}; write it again with `vitkit eval --json`"
            ) from error


def evaluate_predictions(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    *,
    temperature: float = 1.0,
) -> Evaluation:
    """Score `probabilities` (n, K), each row summing to 1, against `labels` (n,) in [0, K).

    `temperature` is what their logits were divided by. Equal probabilities rank in the order of the
    classes, as in argmax. O(n K + K^2) memory, and the time of `intervals.replicates`.

    Raises:
        ConfigError: the shapes do not fit one another, class names repeat, or rows are no
            probabilities.
        DataError: no images, a label that is no class, or a value that is not finite.
    """
    p, y = np.asarray(probabilities), np.asarray(labels)
    answers = answers_of(p, y, classes)
    matrix = confusion_matrix(answers.named, answers.truth, len(classes))
    per_class = _class_scores(matrix)
    seen = matrix.sum(axis=0) + matrix.sum(axis=1) > 0
    sure = calibration_error(answers.confidence, answers.right)
    before = uncalibrated(p, temperature).max(axis=1)
    return Evaluation(
        top1=float(np.mean(answers.rank < 1)),
        top5=float(np.mean(answers.rank < 5)),
        macro_f1=float(np.mean([score.f1 for score, s in zip(per_class, seen, strict=True) if s])),
        balanced_accuracy=float(np.mean([score.recall for score in per_class if score.images])),
        ece=sure,
        images=len(y),
        classes=tuple(classes),
        per_class=dict(zip(classes, per_class, strict=True)),
        confusion=matrix.tolist(),
        intervals=resampling.intervals(answers, resampling.replicates(answers)),
        reliability=reliability(answers.confidence, answers.right),
        temperature=temperature,
        ece_uncalibrated=sure if temperature == 1 else calibration_error(before, answers.right),
    )


def answers_of(probabilities: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Answers:
    """What scores depend on of `probabilities` (n, K) and `labels` (n,), as they are checked there.

    Raises:
        ConfigError, DataError: as `evaluate_predictions`.
    """
    p, y = np.asarray(probabilities), np.asarray(labels)
    _check_shapes(p, y, classes)
    _check_values(p, y)
    truth = p[np.arange(len(y)), y]
    rank = (p > truth[:, None]).sum(axis=1)
    rank += ((p == truth[:, None]) & (np.arange(p.shape[1]) < y[:, None])).sum(axis=1)
    return Answers(
        truth=y.astype(np.int64),
        named=p.argmax(axis=1),
        rank=rank,
        confidence=p.max(axis=1).astype(np.float64),
        num_classes=len(classes),
    )


def confusion_matrix(
    predictions: NDArray[np.integer], labels: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Images of every truth (row) given every name (column): (n,), (n,) -> (K, K)."""
    cells = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _class_scores(matrix: NDArray[np.int64]) -> list[ClassScore]:
    hits, images, named = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    return [
        ClassScore(
            images=int(n),
            precision=float(hit / max(m, 1)),
            recall=float(hit / max(n, 1)),
            f1=float(2 * hit / max(n + m, 1)),
        )
        for hit, n, m in zip(hits, images, named, strict=True)
    ]


def _check_shapes(p: NDArray[Any], y: NDArray[Any], classes: Sequence[str]) -> None:
    if p.ndim != 2 or y.ndim != 1 or len(p) != len(y) or p.shape[1] != len(classes):
        raise ConfigError(
            f"probabilities {p.shape}, labels {y.shape} and {len(classes)} classes do not fit; "
            "give (n, K), (n,) and K names"
        )
    if len(set(classes)) != len(classes):
        twice = next(name for i, name in enumerate(classes) if name in classes[:i])
        raise ConfigError(f"class {twice!r} is named twice; give every class its own name")
    if not len(y):
        raise DataError("0 images to evaluate; choose a split that has some")


def _check_values(p: NDArray[Any], y: NDArray[Any]) -> None:
    num_classes = p.shape[1]
    if y.dtype.kind not in "iu":
        raise ConfigError(f"labels of type {y.dtype} are not class numbers; give integers")
    if y.min() < 0 or y.max() >= num_classes:
        wrong = y[(y < 0) | (y >= num_classes)][0]
        raise DataError(
            f"label {wrong} is not one of {num_classes} classes (0 to {num_classes - 1}); "
            "evaluate on data with the classes that the model was trained on"
        )
    bad = ~np.isfinite(p).all(axis=1)
    if bad.any():
        raise DataError(
            f"the probabilities of image {bad.argmax()} are not finite ({bad.sum()} such images); "
            "the model has diverged, go back to an earlier checkpoint"
        )
    total = p.sum(axis=1, dtype=np.float64)
    wrong_rows = (np.abs(total - 1) > SUM_TOLERANCE) | (p < 0).any(axis=1)
    if wrong_rows.any():
        row = wrong_rows.argmax()
        raise ConfigError(
            f"row {row} of the probabilities sums to {total[row]:.4g} with a minimum of "
            f"{p[row].min():.4g}; rows must be >= 0 and sum to 1: apply softmax to logits"
        )


def in_words(split: str, *, of_the_data: bool) -> str:
    """Which images a split holds, for people: those that the data or that a run put there."""
    return f"{split}, as the {'data has' if of_the_data else 'run split'} it"
