"""Answers to all images of a split, by one process or by many."""

from collections.abc import Callable

import torch
from torch import Tensor

from vitkit.errors import DataError
from vitkit.training.distributed import SOLO, Group
from vitkit.training.sampling import Batch, Split
from vitkit.training.shards import ShardSplit


def scores(
    answer: Callable[[Tensor], Tensor],
    split: Split,
    group: Group = SOLO,
    *,
    blank: Tensor | None = None,
    told: Callable[[int], None] = lambda images: None,
) -> Batch:
    """What `answer` makes of every image of a split, (n, K) in the order of its data, and labels.

    Ranks answer for parts, and all get the whole. Where an answer takes all ranks, as that of a
    sharded model does, those who have no batch left answer for `blank`, (1, C, h, w). `told` gets
    the number of images done, if all ranks are as fast as this one.

    Raises:
        DataError: not one image can be read.
    """
    mine: list[Batch] = []
    batches = split.once()
    while True:
        batch = next(batches, None)
        if blank is not None and group.sum(torch.tensor(float(batch is not None))):
            images = blank if batch is None else batch[0]
        elif batch is not None:
            images = batch[0]
        else:
            break
        answers = answer(images)
        if batch is not None:
            mine.append((answers, batch[1]))
            told(min(group.ranks * sum(len(labels) for _, labels in mine), len(split)))
    parts = [part for theirs in group.each(mine) for part in theirs]
    if isinstance(split, ShardSplit):
        reunite(split, group)
    if not parts:
        raise DataError(
            "not one image of a split to score on can be read; check its shards, or set "
            "data.val_fraction=0 data.test_fraction=0"
        )
    answers, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return answers, labels


def reunite(split: ShardSplit, group: Group) -> None:
    """Tell every rank what the others have found in their parts of some shards."""
    split.places[:] = [place for places in group.each(split.places) for place in places]
    split.images = len(split.places)
    split.lost.share(group)
