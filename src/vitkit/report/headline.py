"""What a page's headline is to be read with: a baseline, and what speaks against the score."""

from collections.abc import Sequence

from vitkit.evaluation.metrics import Evaluation
from vitkit.report.contents import HistoryRow, Report
from vitkit.report.history import left_out

SPLITS = {"val": "validation", "test": "held-out"}  # what a run evaluates, in words
FEW_IMAGES = 100  # below, the interval is so wide that the reader should be told


def baseline(evaluation: Evaluation) -> tuple[str, float]:
    """The most frequent class of the split, and the top-1 of always answering it."""
    name = max(evaluation.per_class, key=lambda name: evaluation.per_class[name].images)
    return name, evaluation.per_class[name].images / evaluation.images


def warnings(report: Report, rows: Sequence[HistoryRow]) -> list[str]:
    """What makes the result less than it seems, the gravest first."""
    evaluation, data = report.evaluation, report.data
    found = []
    if report.split == "val":
        also = ", and the temperature of its confidence" if evaluation.temperature != 1.0 else ""
        found.append(
            f"The best epoch was chosen on these images{also}; expect a bit less on new ones."
        )
    if data.leaks:
        found.append(
            f"{_count(data.leaks, 'image')} of val and test also in train: the model may be tested "
            "on what it has learned by heart, and the score is too high."
        )
    if report.near_leaks:
        found.append(
            f"{_count(report.near_leaks, 'image')} to test on nearly the same as one that was "
            "trained on or chosen by: the score may be a little too high."
        )
    if data.conflicts:
        found.append(
            f"{_count(data.conflicts, 'image')} with a copy under another label: no model can "
            "name them all correctly."
        )
    if bad := left_out(rows):
        found.append(
            f"{_count(bad[0], 'step')} had no finite loss or gradient, the first in epoch "
            f"{bad[1]}, and changed nothing: try a lower learning rate."
        )
    if len(evaluation.classes) > 1 and evaluation.top1 <= baseline(evaluation)[1]:
        worse = "worse than" if evaluation.top1 < baseline(evaluation)[1] else "no better than"
        found.append(f"The model does {worse} always naming the most frequent class.")
    if evaluation.images < FEW_IMAGES:
        found.append(
            f"With {_count(evaluation.images, 'image')} to test on, the score is a rough estimate."
        )
    return found


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
