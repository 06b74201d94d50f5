"""Which images an epoch shows, and in which batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vitkit.data.augment.crop import resized_crop
from vitkit.data.crop import RandomCrop
from vitkit.data.stream import Stream
from vitkit.errors import ConfigError
from vitkit.training.settings import TrainSettings

EVALUATION_BATCH = 64  # images

Batch = tuple[Tensor, Tensor]  # images, (B, C, h, w) uint8, and their labels, (B,) int64


class Split(Protocol):
    """The images of a split, whichever way they are read."""

    def __len__(self) -> int:
        """Images that an epoch shows."""
        ...

    def epoch(self, settings: TrainSettings, number: int, *, done: int = 0) -> Iterator[Batch]:
        """This rank's shares of the batches of an epoch to train on, without the first `done`."""
        ...

    def once(self) -> Iterator[Batch]:
        """Every image once, to be scored; of many ranks each has a part, in the order of ranks."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """Images in memory to cut parts out of."""

    pixels: Tensor  # (N, C, H, W) uint8, each squeezed into the same frame
    sides: Tensor  # (N, 2) int32: height and width that each had, in pixels

    def cut(
        self, rows: Tensor, crop: RandomCrop, size: tuple[int, int], key: tuple[int, int]
    ) -> Tensor:
        """A random part of each image: (B,) -> (B, C, *size) uint8; seed and batch are the key."""
        frame, boxes = self.pixels.shape[-2:], []
        for place, (height, width) in enumerate(self.sides[rows].tolist()):
            view = crop.view(height, width, least=size, key=(*key, place))
            down, right = frame[0] / height, frame[1] / width
            boxes.append(
                (view.top * down, view.left * right, view.height * down, view.width * right)
            )
        return resized_crop(self.pixels[rows], torch.tensor(boxes), size)


@dataclass(frozen=True, slots=True)
class Examples:
    """Images, in memory or read when they are needed, and which of them belong to a split."""

    images: Tensor | Stream  # (N, C, h, w) uint8, shared by all splits
    labels: Tensor  # (N,) int64
    rows: Tensor  # (n,) int64, the rows of this split
    rank: int = 0  # who reads them, of so many, each a share
    ranks: int = 1
    whole: Whole | None = None  # where they are cropped at random, and in memory

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, settings: TrainSettings, number: int, *, done: int = 0) -> Iterator[Batch]:
        """This rank's shares of the batches of an epoch to train on, without the first `done`.

        They are cropped on the way if the settings say so, at random by the seed, the number of
        the step and the rank.

        Raises:
            ConfigError: a batch has fewer images than there are ranks.
        """
        plan = batches(self, settings, number)
        check_shares(min(map(len, plan)), self.ranks)
        first = number * len(plan) + done
        mine = [rows.tensor_split(self.ranks)[self.rank] for rows in plan[done:]]
        seed = settings.seed + (self.rank << 32)  # ranks crop by random numbers of their own
        return self.read(mine, crop=settings.augment.crop, seed=seed, first=first)

    def once(self) -> Iterator[Batch]:
        """Every image of this rank's part once, in the order of the rows.

        Batches are those of a single rank, so that all is scored to the bit as there.
        """
        plan = self.rows.split(EVALUATION_BATCH) if len(self) else ()
        mine = torch.arange(len(plan)).tensor_split(self.ranks)[self.rank]
        return self.read([plan[number] for number in mine.tolist()])

    def read(
        self,
        plan: Sequence[Tensor],
        *,
        crop: RandomCrop | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> Iterator[Batch]:
        """The images and labels of each batch of rows; the first has the number `first`."""
        if isinstance(self.images, Stream):
            images_of = self.images.batches(plan, crop=crop, seed=seed, first=first)
        elif crop is None:
            images_of = (self.images[rows] for rows in plan)
        else:
            images_of = self._cropped(self.images, plan, crop, seed, first)
        labels_of = (self.labels[rows] for rows in plan)
        return zip(images_of, labels_of, strict=True)

    def _cropped(
        self, images: Tensor, plan: Sequence[Tensor], crop: RandomCrop, seed: int, first: int
    ) -> Iterator[Tensor]:
        """Parts of whole images, which without a `whole` are those that there are."""
        height, width = images.shape[-2:]
        whole = self.whole or Whole(images, torch.tensor([[height, width]]).expand(len(images), 2))
        for number, rows in enumerate(plan, first):
            yield whole.cut(rows, crop, (height, width), (seed, number))


def steps_per_epoch(images: int, settings: TrainSettings) -> int:
    """Batches of an epoch, which has as many images as the split."""
    return -(-images // settings.batch_size)


def sizes_of_batches(images: int, settings: TrainSettings) -> list[int]:
    """Images of each batch of an epoch: they differ by one at most."""
    steps = steps_per_epoch(images, settings)
    return [images // steps + (number < images % steps) for number in range(steps)]


def check_shares(size: int, ranks: int) -> None:
    """Check that every rank gets a share of a batch of so many images.

    Raises:
        ConfigError: they are too few.
    """
    if size < ranks:
        raise ConfigError(
            f"batches of {size} images are too small for {ranks} ranks; raise batch_size"
        )


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
    who = classes[torch.randperm(len(classes), generator=generator)]  # has one more where it must
    for turn, label in enumerate(who[:count]):
        places, members = (turns == turn).nonzero()[:, 0], (labels == label).nonzero()[:, 0]
        rounds = -(-len(places) // len(members))
        drawn = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
        order[places] = torch.cat(drawn)[: len(places)]
    return order
