"""Reading many images at once: an ordered look-ahead over threads, and a whole set in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.audit import content_key
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
class InMemory:
    """A whole source decoded, resized and cropped; rows without an image are never to be read."""

    images: Tensor  # (N, C, h, w) uint8, one row for each sample of the source
    keys: tuple[bytes | None, ...]  # what each image contains, before resizing; None: unreadable
    unreadable: tuple[tuple[str, str], ...]  # (name, reason)


def read_all(
    source: Source,
    preprocess: Preprocess,
    *,
    memory_gb: float | None = None,
    workers: int | None = None,
    listen: Listener = silent,
    room: Callable[[tuple[int, ...]], Tensor] | None = None,
) -> InMemory:
    """Decode every sample once.

    `memory_gb` bounds the result, by default at half of `available_memory`. `room` makes the uint8
    tensor of a shape that is filled, by default a new one.

    Raises:
        DataError: the set does not fit.
    """
    total = len(source.samples)
    shape = (total, preprocess.channels, *preprocess.image_size)
    _check_memory(shape, memory_gb)
    images = torch.empty(shape, dtype=torch.uint8) if room is None else room(shape)
    rows = images.numpy()
    keys: list[bytes | None] = [None] * total

    def see(index: int, image: NDArray[np.uint8]) -> None:
        keys[index] = content_key(image)
        rows[index] = preprocess.fit(image)

    unreadable = visit(source, see, workers=workers, listen=listen)
    return InMemory(images, tuple(keys), unreadable)


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


def fits(source: Source, preprocess: Preprocess, memory_gb: float | None = None) -> bool:
    """Whether `read_all` has room for a source."""
    needed, limit = _sizes(
        (len(source.samples), preprocess.channels, *preprocess.image_size), memory_gb
    )
    return needed <= limit


def _sizes(shape: Sequence[int], memory_gb: float | None) -> tuple[float, float]:
    """GB that images of this shape take, and that they may take."""
    needed = float(np.prod(shape, dtype=np.float64)) / 1e9
    return needed, available_memory() / 2e9 if memory_gb is None else memory_gb


def _check_memory(shape: Sequence[int], memory_gb: float | None) -> None:
    needed, limit = _sizes(shape, memory_gb)
    if needed > limit:
        name = "half of what there is," if memory_gb is None else "data.memory_gb ="
        raise DataError(
            f"{shape[0]} images of {shape[2]}x{shape[3]} pixels take {needed:.1f} GB in memory, "
            f"more than {name} {limit:.3g} GB; leave data.loading to auto, choose a smaller "
            "data.image_size, or set data.memory_gb to what you can spare"
        )
