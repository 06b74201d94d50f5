"""Which images an epoch shows, and in which batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitkit.data.crop import RandomCrop
from vitkit.data.stream import Stream
from vitkit.training.settings import TrainSettings

EVALUATION_BATCH = 64  # images


@dataclass(frozen=True, slots=True)
class Examples:
    """Images, in memory or read when they are needed, and which of them belong to a split."""

    images: Tensor | Stream  # (N, C, h, w) uint8, shared by all splits
    labels: Tensor  # (N,) int64
    rows: Tensor  # (n,) int64, the rows of this split

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def in_memory(self) -> bool:
        """Whether nothing has to be read any more."""
        return isinstance(self.images, Tensor)

    def read(
        self,
        plan: Sequence[Tensor],
        *,
        crop: RandomCrop | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> Iterator[Tensor]:
        """The images of each batch of rows, (B, C, h, w) uint8.

        Those that are read only now are cropped on the way, at random by `seed` and the number of
        the batch, from `first`; those in memory are not.
        """
        if isinstance(self.images, Tensor):
            return (self.images[rows] for rows in plan)
        return self.images.batches(plan, crop=crop, seed=seed, first=first)


def steps_per_epoch(images: int, settings: TrainSettings) -> int:
    """Batches of an epoch, which has as many images as the split."""
    return -(-images // settings.batch_size)


def batches(train: Examples, settings: TrainSettings, epoch: int) -> list[Tensor]:
    """Rows of each batch of an epoch, in an order that only seed and epoch decide.

    Every row comes once; with `data.balanced` every class as often as any other, and with
    `augment.repeats` each image that comes is repeated in a row, for as many others that do not.
    Sizes of batches differ by one at most, so that no small one is left at the end.
    """
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    count, repeats = len(train), settings.augment.repeats
    if settings.data.balanced:
        order = balanced(train.labels[train.rows], -(-count // repeats), generator)
    else:
        order = torch.randperm(count, generator=generator)
    repeated = order.repeat_interleave(repeats)[:count]  # arXiv:1901.09335
    return list(train.rows[repeated].tensor_split(steps_per_epoch(count, settings)))


def balanced(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Places of `labels`, (n,), in random order, every class equally often, to one: (count,).

    A class that has too few comes again and again, each time in another order.
    """
    classes = labels.unique()
    turns = torch.randperm(count, generator=generator) % len(classes)  # whose turn it is
    order = torch.empty_like(turns)
    for turn, label in enumerate(classes):
        places, members = (turns == turn).nonzero()[:, 0], (labels == label).nonzero()[:, 0]
        rounds = -(-len(places) // len(members))
        drawn = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
        order[places] = torch.cat(drawn)[: len(places)]
    return order
