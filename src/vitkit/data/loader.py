"""Reading many images at once: an ordered look-ahead over threads, and a whole set in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.audit import content_key
from vitkit.data.crop import squeezed
from vitkit.data.sources import Source
from vitkit.data.transforms import Preprocess
from vitkit.errors import DataError, ImageError
from vitkit.progress import Listener, Progress, silent

# What a container may use, by cgroup v2 and v1; absent, `max` or vast where there is no limit.
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """Threads that decode: as many as the cores this process may use, at most 16.

    The processes that torchrun starts on a machine share its cores.
    """
    affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    return max(min(cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 16), 1)


def look_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Iterator[Result]:
    """`function` of each item in order, computed by threads at most `ahead` items early."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="vitkit-read")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Room:
    """What memory holds of an image: the model's input and, to cut parts out of, the whole image.

    That is squeezed into a `frame` of the same height and width for all images.
    """

    channels: int
    size: tuple[int, int]  # of the model's input, height and width in pixels
    frame: tuple[int, int] | None = None

    @property
    def bytes(self) -> int:
        """Of one image."""
        return self.channels * sum(h * w for h, w in (self.size, self.frame or (0, 0)))

    def fitted(self, rows: Tensor) -> Tensor:
        """The inputs: (N, bytes) -> (N, C, h, w), the same memory."""
        return rows[:, : self.bytes - self._beyond].view(len(rows), self.channels, *self.size)

    def whole(self, rows: Tensor) -> Tensor | None:
        """The whole images: (N, bytes) -> (N, C, H, W), the same memory."""
        if self.frame is None:
            return None
        return rows[:, self.bytes - self._beyond :].view(len(rows), self.channels, *self.frame)

    @property
    def _beyond(self) -> int:
        height, width = self.frame or (0, 0)
        return self.channels * height * width


@dataclass(frozen=True, slots=True)
class InMemory:
    """A source that was decoded once; rows without an image are never to be read."""

    rows: Tensor  # (N, bytes) uint8, one row for each sample of the source
    room: Room  # what a row holds
    sides: Tensor  # (N, 2) int32: height and width of each image, in pixels, before resizing
    keys: tuple[bytes | None, ...]  # what each image contains, before resizing; None: unreadable
    unreadable: tuple[tuple[str, str], ...]  # (name, reason)

    @property
    def images(self) -> Tensor:
        """Inputs of the model: (N, C, h, w) uint8."""
        return self.room.fitted(self.rows)

    @property
    def whole(self) -> Tensor | None:
        """Whole images, if there are any: (N, C, H, W) uint8."""
        return self.room.whole(self.rows)


def read_all(
    source: Source,
    preprocess: Preprocess,
    *,
    frame: tuple[int, int] | None = None,
    memory_gb: float | None = None,
    workers: int | None = None,
    listen: Listener = silent,
    make: Callable[[tuple[int, int]], Tensor] | None = None,
) -> InMemory:
    """Decode every sample once; with a `frame`, height and width, whole images are kept as well.

    `memory_gb` bounds the result, by default at half of `available_memory`. `make` makes the uint8
    tensor of a shape that is filled, by default a new one.

    Raises:
        DataError: the set does not fit.
    """
    total = len(source.samples)
    room = Room(preprocess.channels, preprocess.image_size, frame)
    _check_memory(total, room, memory_gb)
    shape = (total, room.bytes)
    rows = torch.empty(shape, dtype=torch.uint8) if make is None else make(shape)
    images, whole = room.fitted(rows).numpy(), room.whole(rows)
    sides = torch.ones(total, 2, dtype=torch.int32)
    keys: list[bytes | None] = [None] * total

    def see(index: int, image: NDArray[np.uint8]) -> None:
        keys[index] = content_key(image)
        images[index] = preprocess.fit(image)
        if whole is not None and frame is not None:
            sides[index] = torch.tensor(image.shape[:2])
            whole[index] = squeezed(image, frame, preprocess)

    unreadable = visit(source, see, workers=workers, listen=listen)
    return InMemory(rows, room, sides, tuple(keys), unreadable)


def survey(
    source: Source, *, workers: int | None = None, listen: Listener = silent
) -> tuple[tuple[bytes | None, ...], tuple[tuple[str, str], ...]]:
    """Decode every sample once and keep none: what each contains, and which cannot be read."""
    keys: list[bytes | None] = [None] * len(source.samples)

    def see(index: int, image: NDArray[np.uint8]) -> None:
        keys[index] = content_key(image)

    unreadable = visit(source, see, workers=workers, listen=listen)
    return tuple(keys), unreadable


def visit(
    source: Source,
    see: Callable[[int, NDArray[np.uint8]], None],
    *,
    workers: int | None = None,
    listen: Listener = silent,
) -> tuple[tuple[str, str], ...]:
    """Decode every sample once and show it to `see`: (name, reason) of those that cannot be read.

    `see` gets the index and the image, (H, W, 3), from several threads, each image once.
    """
    total = len(source.samples)
    unreadable: list[tuple[str, str]] = []

    def read(chunk: range) -> list[tuple[str, str]]:
        failed = []
        for index in chunk:
            try:
                image = source.read(index)
            except ImageError as error:
                failed.append((source.samples[index].name, str(error)))
            else:
                see(index, image)
        return failed

    workers = workers or default_workers()
    chunks = [range(at, min(at + 64, total)) for at in range(0, total, 64)]
    results = look_ahead(read, chunks, workers=workers, ahead=2 * workers)
    for chunk, failed in zip(chunks, results, strict=True):
        unreadable += failed
        listen(Progress("read", chunk.stop, total))
    return tuple(unreadable)


def available_memory() -> int:
    """Bytes of memory that the machine has, or the container if that is less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in MEMORY_LIMITS:
        text = path.read_text().strip() if path.is_file() else ""
        sizes += [int(text)] if text.isdecimal() else []
    return min(sizes)


def memory_limit(memory_gb: float | None) -> float:
    """GB that images may take: as many as are given, else half of `available_memory`."""
    return available_memory() / 2e9 if memory_gb is None else memory_gb


def _check_memory(count: int, room: Room, memory_gb: float | None) -> None:
    needed, limit = count * room.bytes / 1e9, memory_limit(memory_gb)
    if needed > limit:
        name = "half of what there is," if memory_gb is None else "data.memory_gb ="
        height, width = room.size
        raise DataError(
            f"{count} images of {height}x{width} pixels take {needed:.1f} GB in memory, "
            f"more than {name} {limit:.3g} GB; take data.loading=stream, choose a smaller "
            "data.image_size, or set data.memory_gb to what you can spare"
        )
