"""Requests that come one by one, answered in batches."""

import asyncio
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Told = Callable[[int, float], None]  # of every batch: its size, and seconds that it took


def step_back() -> None:
    """Let the thread that speaks with clients go before this one, which computes.

    On Linux alone: elsewhere it would be the whole process.
    """
    if sys.platform == "linux":
        os.nice(5)


class Full(Exception):
    """As many requests wait as may; `retry_after` says in how many seconds some will be done."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many requests wait; try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(Exception):
    """No more requests are taken."""


@dataclass(eq=False, slots=True)
class Ticket(Generic[Item, Answer]):
    """One request that waits."""

    item: Item
    answer: "asyncio.Future[Answer]"
    since: float  # seconds of the loop's clock


class Batcher(Generic[Item, Answer]):
    """Gathers what is asked at the same time, and gives every request its own answer.

    `run` takes at most `size` items and gives as many answers, in order; it is called in a thread
    of its own, never twice at once. A batch begins when it is full, or when its first request has
    waited for `delay` seconds: at once if it waited as long for the batch before. At most `waiting`
    requests wait. If `run` raises, its items are run one by one, so that only those fail that
    cannot be answered.

    Used as `async with`: at its end what was taken is answered, and nothing more is taken.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        size: int,
        delay: float,
        waiting: int,
        told: Told = lambda size, seconds: None,
    ) -> None:
        self.run, self.size, self.delay, self.waiting, self.told = run, size, delay, waiting, told
        self.closed = False
        self._tickets: deque[Ticket[Item, Answer]] = deque()
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch", initializer=step_back)
        self._pace = 0.0  # seconds that a batch takes, lately

    async def __aenter__(self) -> Self:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closed = True
        self._changed.set()
        await self._worker
        self._thread.shutdown()

    @property
    def queued(self) -> int:
        """Requests that wait for their batch to begin."""
        return len(self._tickets)

    async def ask(self, item: Item) -> Answer:
        """The answer to one item. Whoever stops waiting frees the place in the queue.

        Raises:
            Full: too many wait.
            Closed: no more are taken.
            Exception: what `run` raised for this item.
        """
        if self.closed:
            raise Closed("the server is closing")
        if len(self._tickets) >= self.waiting:
            batches = math.ceil(len(self._tickets) / self.size)
            raise Full(max(math.ceil(batches * self._pace), 1))
        loop = asyncio.get_running_loop()
        ticket = Ticket[Item, Answer](item, loop.create_future(), loop.time())
        self._tickets.append(ticket)
        self._changed.set()
        try:
            return await ticket.answer
        finally:
            if ticket in self._tickets:  # left before its batch began
                self._tickets.remove(ticket)

    async def _work(self) -> None:
        while await self._gathered():
            batch = [self._tickets.popleft() for _ in range(min(self.size, len(self._tickets)))]
            begun = time.perf_counter()
            answers = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._answers, [ticket.item for ticket in batch]
            )
            seconds = time.perf_counter() - begun
            self._pace = seconds if not self._pace else 0.8 * self._pace + 0.2 * seconds
            self.told(len(batch), seconds)
            for ticket, answer in zip(batch, answers, strict=True):
                if ticket.answer.done():  # whoever asked has left
                    continue
                if isinstance(answer, BaseException):
                    ticket.answer.set_exception(answer)
                else:
                    ticket.answer.set_result(answer)

    async def _gathered(self) -> bool:
        """Wait until a batch should begin; False once all is answered and no more will come."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._tickets and self.closed:
                return False
            left = None
            if self._tickets:
                left = self._tickets[0].since + self.delay - loop.time()
                if len(self._tickets) >= self.size or left <= 0 or self.closed:
                    return True
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                continue

    def _answers(self, items: list[Item]) -> Sequence[Answer | BaseException]:
        """In the thread: the answers to a batch, with errors in place of those there are not."""
        try:
            answers = list(self.run(items))
            if len(answers) != len(items):
                raise AssertionError(f"{len(items)} items have {len(answers)} answers")
            return answers
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [each for item in items for each in self._answers([item])]
