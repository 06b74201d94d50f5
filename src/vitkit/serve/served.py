"""The model that answers, and its successor."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vitkit.classifier import Classifier
from vitkit.data.container import find_kind
from vitkit.data.image import decode
from vitkit.data.loader import default_workers
from vitkit.data.transforms import Preprocess
from vitkit.errors import ImageError
from vitkit.serve.batcher import Batcher, Told, step_back
from vitkit.serve.refused import INVALID, NOT_AN_IMAGE, UNREADABLE, Refused
from vitkit.serve.settings import Limits

Pixels = NDArray[np.uint8]
Row = NDArray[np.float32]
Found = TypeVar("Found")
EMBED, PREDICT = "embed", "predict"


@dataclass(frozen=True, slots=True)
class Question:
    """One image as the model takes it, (C, h, w), and what is wanted of it."""

    pixels: Pixels
    want: str = PREDICT  # probabilities (K,), or with EMBED features (D,)


class Served:
    """A classifier that answers many at once; every answer is of this one version.

    Probabilities and features run in batches, what looks inside the model one by one beside them,
    and what runs it dozens of times in a third thread.
    """

    def __init__(
        self, classifier: Classifier, *, name: str, version: int, limits: Limits, told: Told
    ) -> None:
        self.classifier, self.name, self.version = classifier, name, version
        self.limits = limits
        self._many = Batcher(
            self._answer,
            size=limits.batch_size,
            delay=limits.delay,
            waiting=limits.waiting,
            told=told,
        )
        self._alone = Batcher(self._look, size=1, delay=0, waiting=limits.explaining)
        self._long = Batcher(self._look, size=1, delay=0, waiting=limits.explaining)
        self._known: dict[Callable[[Classifier], Any], asyncio.Future[Any]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Served"]:
        """While it answers; at the end what was asked is answered."""
        async with self._many, self._alone, self._long:
            yield self

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self._many.queued + self._alone.queued + self._long.queued

    async def probabilities(self, pixels: Pixels) -> Row:
        """The share of each class, (K,)."""
        return await self._many.ask(Question(pixels))

    async def features(self, pixels: Pixels) -> Row:
        """The pooled features, (D,)."""
        return await self._many.ask(Question(pixels, EMBED))

    async def look(self, into: Callable[[Classifier], Found], *, costly: bool = False) -> Found:
        """What a function finds in the classifier; what takes long does so in a thread apart."""
        found: Found = await (self._long if costly else self._alone).ask(into)
        return found

    async def once(self, into: Callable[[Classifier], Found]) -> Found:
        """The same of a function that depends on the model alone: it is called once."""
        known = self._known.get(into)
        if known is None or (known.done() and not succeeded(known)):
            known = self._known[into] = asyncio.ensure_future(self.look(into, costly=True))
        found: Found = await asyncio.shield(known)  # who leaves does not end it for the others
        return found

    def _answer(self, questions: Sequence[Question]) -> Sequence[Row]:
        engine = self.classifier.engine
        answers: list[Row | None] = [None] * len(questions)
        for want, run in ((PREDICT, engine.probabilities), (EMBED, engine.features)):
            numbers = [i for i, question in enumerate(questions) if question.want == want]
            if numbers:
                batch = torch.from_numpy(np.stack([questions[i].pixels for i in numbers]))
                for i, row in zip(numbers, run(batch).numpy(), strict=True):
                    answers[i] = row
        return [answer for answer in answers if answer is not None]

    def _look(self, several: Sequence[Callable[[Classifier], Any]]) -> Sequence[Any]:
        return [into(self.classifier) for into in several]


def succeeded(future: "asyncio.Future[Any]") -> bool:
    """Whether what is done has come to a result."""
    return not future.cancelled() and future.exception() is None


class Decoder:
    """Threads that make model inputs of bytes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._threads = ThreadPoolExecutor(
            default_workers(), thread_name_prefix="decode", initializer=step_back
        )

    async def __call__(self, data: bytes, served: Served, *, fitted: bool = False) -> Pixels:
        """An encoded image as the model takes it, (C, h, w); a `fitted` one is that already.

        Raises:
            Refused: it is no image, a damaged or too large one, or not what the model takes.
        """
        return await self.run(lambda: self._fit(data, served, fitted))

    async def run(self, work: Callable[[], Found]) -> Found:
        """What some work comes to, in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _fit(self, data: bytes, served: Served, fitted: bool) -> Pixels:
        try:
            find_kind(data)
        except ImageError as error:
            raise Refused(NOT_AN_IMAGE, str(error)) from None
        try:
            image = decode(data, max_pixels=self.limits.max_pixels)
        except ImageError as error:
            raise Refused(UNREADABLE, str(error)) from None
        preprocess = served.classifier.preprocess
        return _as_given(image, preprocess) if fitted else preprocess.fit(image)


def _as_given(image: NDArray[np.uint8], preprocess: Preprocess) -> Pixels:
    """An image that /view made: (h, w, 3) -> (C, h, w)."""
    if image.shape[:2] != tuple(preprocess.image_size):
        height, width = preprocess.image_size
        raise Refused(
            INVALID,
            f"a fitted image has {width} x {height} pixels, not {image.shape[1]} x "
            f"{image.shape[0]}; take the one that /view gives, or leave `fitted` out",
        )
    return np.ascontiguousarray(image.transpose(2, 0, 1)[: preprocess.channels])


class Turn:
    """A model that answers, and how many requests count on it."""

    def __init__(self, served: Served, stack: AsyncExitStack) -> None:
        self.served, self.stack = served, stack
        self.requests = 0
        self.free = asyncio.Event()
        self.free.set()

    async def end(self) -> None:
        """Wait for the last request, and end."""
        await self.free.wait()
        await self.stack.aclose()


class Stage:
    """Whose turn it is to answer."""

    def __init__(self, make: Callable[[Classifier, str, int], Served]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._ends: set[asyncio.Task[None]] = set()
        self._now: Turn | None = None

    @property
    def served(self) -> Served:
        """The model that takes what comes now."""
        assert self._now is not None  # else nothing has been put on
        return self._now.served

    @contextmanager
    def using(self) -> Iterator[Served]:
        """The model that takes a request, which does not end before the request does."""
        assert self._now is not None  # else nothing has been put on
        turn = self._now
        turn.requests += 1
        turn.free.clear()
        try:
            yield turn.served
        finally:
            turn.requests -= 1
            if not turn.requests:
                turn.free.set()

    async def put_on(self, classifier: Classifier, name: str) -> Served:
        """Let a classifier answer from now on; the one before answers what it was asked."""
        async with self._lock:
            before = self._now
            version = 1 if before is None else before.served.version + 1
            stack = AsyncExitStack()
            served = await stack.enter_async_context(
                self._make(classifier, name, version).running()
            )
            self._now = Turn(served, stack)
            if before is not None:
                end = asyncio.create_task(before.end())
                self._ends.add(end)
                end.add_done_callback(self._ends.discard)
            return served

    async def close(self) -> None:
        """Answer what was asked, and end."""
        if self._now is not None:
            await self._now.end()
        await asyncio.gather(*self._ends)
