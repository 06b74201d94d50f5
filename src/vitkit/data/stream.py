"""Batches of an image set that memory does not hold, decoded by processes a few batches ahead.

Every process reads its share of every batch into memory that all of them share, in slots of one
batch each that are used in turn. The caller gets a copy, which takes a hundredth of the decoding.
"""

import contextlib
import multiprocessing
import pickle
import signal
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkit.data.crop import RandomCrop, squeezed
from vitkit.data.loader import default_workers
from vitkit.data.sources import Reader, Source
from vitkit.data.transforms import Preprocess
from vitkit.data.view import View
from vitkit.errors import ConfigError, DataError, ImageError

AHEAD = 3  # batches
END_SECONDS = 10.0  # that a process which was told to end may take


@dataclass(frozen=True, slots=True)
class Share:
    """What one process reads of a batch: every so many-th image."""

    run: int  # of `Stream.batches`
    slot: int
    number: int  # of the batch
    rows: tuple[Any, ...]  # numbers of images, or whatever else the source's reader takes
    positions: range  # of the rows in the batch
    crop: RandomCrop | None
    seed: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be read."""

    position: int  # in its batch
    reason: str


class Stream:
    """Processes that decode, crop and resize the images of a source, batch by batch.

    To be used in a `with` statement, at whose end they are ended. They start at once, which takes
    seconds, and serve any number of `batches`, one after the other. They hold neither threads nor
    devices of this process, hear no Ctrl-C, and end by themselves if it dies.

    `batch_size` is the largest of any plan. The memory shared is `ahead` batches.

    Raises:
        ConfigError: one of the three numbers is below 1.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        *,
        batch_size: int,
        workers: int | None = None,
        ahead: int = AHEAD,
    ) -> None:
        workers = default_workers() if workers is None else workers
        if min(batch_size, workers, ahead) < 1:
            raise ConfigError(
                f"batch_size={batch_size}, workers={workers} and ahead={ahead} must be at least 1"
            )
        self.source = source
        self.batch_size = batch_size
        self._task: bytes | None = pickle.dumps((source.read, preprocess))  # until it is sent
        self._runs = 0
        self._waiting: deque[tuple[int, list[Any]]] = deque()  # slot and rows of what is asked for
        context = multiprocessing.get_context("spawn")
        shape = (ahead, batch_size, preprocess.channels, *preprocess.image_size)
        self._slots = SharedSlots(context.RawArray("B", int(np.prod(shape))), shape)
        self._run = context.RawValue("q", 0)  # the one that is wanted; 0 for none
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        self._end = weakref.finalize(self, end, self._workers)
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(theirs, self._slots, self._run), daemon=True
            )
            with apart():
                process.start()
            theirs.close()
            self._workers.append((process, ours))

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they are doing; nothing can be asked for afterwards."""
        self._end()

    def batches(
        self,
        plan: Iterable[Sequence[Any] | Tensor],
        *,
        crop: RandomCrop | None = None,
        seed: int = 0,
        first: int = 0,
        failed: Callable[[list[Failure]], None] | None = None,
    ) -> Iterator[Tensor]:
        """For each batch of rows in `plan` its images, in order: (B, C, h, w) uint8.

        A row is the number of an image, or whatever else the source's reader takes.

        Without `crop` they are what `preprocess.fit` gives. With it each has a box that only
        `seed`, the number of its batch and its place therein decide; the plan's first batch has the
        number `first`.

        An image that cannot be read is an error, or `failed` is told of those of a batch before it
        comes; what lies in their places is then undefined.

        Leaving off early is allowed, to ask for others is not before. An error closes the stream.

        Raises:
            DataError: an image can no longer be read, or a process died.
            ConfigError: a batch is larger than `batch_size`.
        """
        if self._run.value or not self._end.alive:
            raise RuntimeError("the stream is closed, or its last batches were not finished")
        self._runs += 1
        try:
            yield from self._batches(enumerate(plan, first), crop, seed, failed or self._refuse)
            self._run.value = 0
        except GeneratorExit:
            self._run.value = 0  # the processes skip what they have not begun
            raise
        except BaseException:
            self.close()
            raise

    def _batches(
        self,
        plan: Iterator[tuple[int, Sequence[Any] | Tensor]],
        crop: RandomCrop | None,
        seed: int,
        failed: Callable[[list[Failure]], None],
    ) -> Iterator[Tensor]:
        self._send_task()
        while self._waiting:  # since the last run was left off
            self._answers()
            self._waiting.popleft()
        self._run.value = self._runs
        for slot in range(self._slots.shape[0]):
            self._ask(plan, slot, crop, seed)
        while self._waiting:
            slot, rows = self._waiting[0]
            if failures := self._answers():
                failed(failures)
            self._waiting.popleft()
            images = self._slots.tensor()[slot, : len(rows)].clone()
            self._ask(plan, slot, crop, seed)
            yield images

    def _send_task(self) -> None:
        """Once; not at the start already, as it takes a process seconds until it listens."""
        if self._task is not None:
            for process, connection in self._workers:
                with told(process, self.source):
                    connection.send_bytes(self._task)
            self._task = None

    def _ask(
        self,
        plan: Iterator[tuple[int, Sequence[Any] | Tensor]],
        slot: int,
        crop: RandomCrop | None,
        seed: int,
    ) -> None:
        """Have the plan's next batch, if there is one, read into a slot."""
        number, batch = next(plan, (0, None))
        if batch is None:
            return
        rows = batch.tolist() if isinstance(batch, Tensor) else list(batch)
        if len(rows) > self.batch_size:
            raise ConfigError(
                f"batch {number} has {len(rows)} images, more than batch_size={self.batch_size} "
                "of the stream; make it larger"
            )
        step = len(self._workers)
        self._waiting.append((slot, rows))
        for start, (process, connection) in enumerate(self._workers):
            positions = range(start, len(rows), step)
            mine = tuple(rows[start::step])
            with told(process, self.source):
                connection.send(Share(self._runs, slot, number, mine, positions, crop, seed))

    def _answers(self) -> list[Failure]:
        """Wait until all have read their share of the oldest batch asked for: what failed."""
        failures: list[Failure] = []
        error: Exception | None = None
        for process, connection in self._workers:
            with told(process, self.source):
                answer: list[Failure] | Exception = connection.recv()
            if isinstance(answer, Exception):
                error = error or answer
            else:
                failures += answer
        if error is not None:
            raise error
        return failures

    def _refuse(self, failures: list[Failure]) -> None:
        """Raise what failed first in the oldest batch asked for."""
        failure = min(failures, key=lambda failure: failure.position)
        name = self.source.samples[self._waiting[0][1][failure.position]].name
        raise DataError(f"{self.source.name}: {name!r} is no longer readable: {failure.reason}")


@dataclass(frozen=True, slots=True, eq=False)
class SharedSlots:
    """Memory that processes share, without a name that could be left behind."""

    memory: Any  # bytes, of ctypes
    shape: tuple[int, ...]  # (slots, B, C, h, w)

    def tensor(self) -> Tensor:
        return torch.frombuffer(self.memory, dtype=torch.uint8).view(self.shape)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """What is started meanwhile hears no Ctrl-C and does not import the caller's script.

    Processes inherit the blocked signal. Importing the script would run it again where it has no
    `if __name__ == "__main__"`.
    """
    resource_tracker.ensure_running()  # here: `start` would, and that unblocks the signal
    script, mask = sys.modules["__main__"], signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        sys.modules["__main__"] = ModuleType("__main__")
        yield
    finally:
        sys.modules["__main__"] = script
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def told(process: SpawnProcess, source: Source) -> Iterator[None]:
    """Talk to a process; DataError if it is dead."""
    try:
        yield
    except (EOFError, ConnectionError) as error:
        process.join(END_SECONDS)
        code = process.exitcode or 0
        cause = (
            f"was killed by signal {-code}, as when memory is short; lower data.workers and resume"
            if code < 0
            else f"ended with exit code {code}; see what it said above"
        )
        raise DataError(f"a process that reads {source.name} {cause}") from error


def end(workers: Sequence[tuple[SpawnProcess, Connection]]) -> None:
    """Kill the processes: they hold nothing that would be left behind."""
    for process, connection in workers:
        connection.close()
        process.kill()
    for process, _ in workers:
        process.join(END_SECONDS)


def work(connection: Connection, slots: SharedSlots, run: Any) -> None:
    """A process's life: read what the other end asks for, until that is closed."""
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, ConnectionError):
        read, preprocess = pickle.loads(connection.recv_bytes())
        images = slots.tensor()
        shares: SimpleQueue[Share | None] = SimpleQueue()
        threading.Thread(target=receive, args=(connection, shares), daemon=True).start()
        while (share := shares.get()) is not None:
            connection.send(read_share(share, images[share.slot], read, preprocess, run))


def receive(connection: Connection, shares: "SimpleQueue[Share | None]") -> None:
    """Take shares at once, so that who sends large ones does not wait until those before are read.

    None comes last.
    """
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            shares.put(connection.recv())
    shares.put(None)


def read_share(
    share: Share, images: Tensor, read: Reader, preprocess: Preprocess, run: Any
) -> list[Failure] | Exception:
    """Fill the places of a share in `images`, (B, C, h, w), as long as its run is wanted."""
    failures: list[Failure] = []
    for position, row in zip(share.positions, share.rows, strict=True):
        if run.value != share.run:
            break
        key = (share.seed, share.number, position)
        try:
            images[position] = read_one(read, row, preprocess, share.crop, key)
        except ImageError as error:
            failures.append(Failure(position, str(error)))
        except Exception as error:  # a defect: raised where the batches are asked for
            error.add_note(traceback.format_exc())  # which does not travel otherwise
            return error
    return failures


def read_one(
    read: Reader,
    row: Any,
    preprocess: Preprocess,
    crop: RandomCrop | None,
    key: tuple[int, int, int],
) -> Tensor:
    """One image, (C, h, w) uint8; `key` decides the box, all of whose numbers are not negative."""
    if crop is None:
        return torch.from_numpy(preprocess.fit(read(row)))
    size = preprocess.image_size

    def view(height: int, width: int) -> View:
        return crop.view(height, width, least=size, key=key)

    return squeezed(read(row, view), size, preprocess)
