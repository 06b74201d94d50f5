"""What a run's report says of its data, beyond counts: copies, odd images, doubtful labels."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from vitkit.data.check.look import look_at_fitted
from vitkit.data.check.run import DataCheck, judge
from vitkit.evaluation.suspects import find_suspects
from vitkit.training.label_check import LabelCheck
from vitkit.training.run import Outcome

COMPARED = 100_000  # images; more take minutes, which `vitkit data check` may have


def examine(outcome: Outcome) -> DataCheck | None:
    """Check the images of a run, as the model sees them, with the run's splits.

    None where they are not in memory, or too many: `vitkit data check` is for those.
    """
    dataset, source = outcome.dataset, outcome.prepared.source
    if not isinstance(dataset.images, Tensor) or len(source.samples) > COMPARED:
        return None
    samples = tuple(
        replace(sample, split=split)
        for sample, split in zip(source.samples, dataset.splits, strict=True)
    )
    unreadable = dataset.summary.unreadable
    looks = look_at_fitted(dataset.images.numpy(), dataset.keys, unreadable)
    return judge(replace(source, samples=samples), looks)


def doubt_labels(outcome: Outcome) -> LabelCheck | None:
    """Likely wrong labels of the evaluated split; None where its images have no rows."""
    dataset = outcome.dataset
    if outcome.probabilities is None or outcome.labels is None:
        return None
    pairs = enumerate(zip(dataset.splits, dataset.keys, strict=True))
    rows = [row for row, (split, key) in pairs if split == outcome.split and key is not None]
    if len(rows) != len(outcome.labels):
        return None
    suspects = find_suspects(outcome.probabilities, outcome.labels)
    return LabelCheck(
        rows=np.array(rows, np.int64)[suspects.likely],
        suggested=suspects.suggested[suspects.likely],
        suspicion=suspects.suspicion[suspects.likely],
        scored=len(rows),
        left_out=0,
        agreement=outcome.evaluation.top1 if outcome.evaluation else 0.0,
        how="this run's model, which was not trained on them",
    )
