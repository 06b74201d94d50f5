"""Where the images of a run are: in memory, read once, or read again for every epoch."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from vitkit.data.loader import InMemory, Room, default_workers, memory_limit, read_all, survey
from vitkit.data.sources import Source
from vitkit.data.stream import Stream
from vitkit.data.transforms import Preprocess
from vitkit.progress import Listener
from vitkit.training.distributed import Group
from vitkit.training.sampling import EVALUATION_BATCH, Examples, Split
from vitkit.training.settings import DataSettings, TrainSettings
from vitkit.training.shared_images import SHARING, read_together, survey_together

LARGER = 1.5  # times the model's input that whole images are kept with, in height and in width
LOOKED_AT = 24  # images whose size is asked for

Keys = tuple[bytes | None, ...]
Unreadable = tuple[tuple[str, str], ...]


def room_for(source: Source, preprocess: Preprocess, settings: TrainSettings) -> Room:
    """What memory is to hold of an image; the whole only if parts of it are trained on.

    Then so large that parts of down to `LARGER**-2` of its area fill the model's input with pixels
    of their own, but no larger than images usually are.
    """
    size, frame = preprocess.image_size, None
    if settings.augment.crop is not None:
        sides = [image.shape[:2] for image in source.some(LOOKED_AT)] or [size]
        usual = (median(side) for side in zip(*sides, strict=True))
        height, width = (
            max(min(round(LARGER * n), round(u)), n) for n, u in zip(size, usual, strict=True)
        )
        frame = height, width
    return Room(preprocess.channels, size, frame)


def settle_loading(
    room: Room, source: Source, data: DataSettings, group: Group
) -> tuple[str, str | None]:
    """Whether images are kept in memory or read for every epoch, and a line if they do not fit."""
    needed = room.bytes * len(source.samples) / 1e9
    limit = memory_limit(data.memory_gb) / (1 if SHARING else group.local_ranks)
    if all(group.each(needed <= limit)):
        return "memory", None
    return "stream", (
        f"{len(source.samples):,} images would take {needed:,.1f} GB of the {limit:,.1f} that they "
        "may (data.memory_gb), so they are read again in every epoch"
    )


def placed(examples: Mapping[str, Split], device: torch.device | None) -> Mapping[str, Split]:
    """The same with images on a CUDA device, if there is room for all."""
    first = examples["train"]
    if device is None or device.type != "cuda":
        return examples
    if not isinstance(first, Examples) or not isinstance(first.images, Tensor):
        return examples
    pixels, whole = first.images, first.whole
    needed = pixels.nbytes + (0 if whole is None else whole.pixels.nbytes)
    if needed > torch.cuda.mem_get_info(device)[0] / 2:
        return examples
    pixels = sent(pixels, device)
    whole = whole and replace(whole, pixels=sent(whole.pixels, device))
    return {
        name: replace(part, images=pixels, whole=whole)
        for name, part in examples.items()
        if isinstance(part, Examples)
    }


def sent(images: Tensor, device: torch.device, rows: int = 4096) -> Tensor:
    """A copy on a device, (N, C, h, w), made of so many at a time: they lie apart in memory."""
    copy = torch.empty(images.shape, dtype=images.dtype, device=device)
    for start in range(0, len(images), rows):
        copy[start : start + rows] = images[start : start + rows]
    return copy


def read_images(
    source: Source,
    preprocess: Preprocess,
    settings: TrainSettings,
    listen: Listener,
    group: Group,
    room: Room | None = None,
) -> tuple[InMemory | Stream, Keys, Unreadable]:
    """The images of a source, in memory or to be read; one rank of a machine reads for all."""
    data = settings.data
    all_workers = data.workers or default_workers() * group.local_ranks
    if data.loading == "stream":
        keys, unreadable = survey_together(
            lambda: survey(source, workers=all_workers, listen=listen), group
        )
        size = max(-(-settings.batch_size // group.ranks), EVALUATION_BATCH)
        stream = Stream(source, preprocess, batch_size=size, workers=data.workers)
        return stream, keys, unreadable
    room = room or room_for(source, preprocess, settings)
    frame = room.frame
    memory = read_together(
        lambda make: read_all(
            source,
            preprocess,
            frame=frame,
            memory_gb=data.memory_gb,
            workers=all_workers,
            listen=listen,
            make=make,
        ),
        group,
    )
    return memory, memory.keys, memory.unreadable
