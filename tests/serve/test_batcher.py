"""Requests one by one against answers in batches."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from vitkit.serve.batcher import Batcher, Closed, Full


def doubled(items: Sequence[int]) -> list[int]:
    return [2 * item for item in items]


class Recorder:
    """A `run` that keeps its batches, and waits for leave where it is told to."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.leave = threading.Event()
        self.begun = threading.Event()
        if not held:
            self.leave.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.threads.add(threading.get_ident())
        self.begun.set()
        assert self.leave.wait(20)
        return doubled(items)


async def begun(recorder: Recorder) -> None:
    while not recorder.begun.is_set():
        await asyncio.sleep(0.001)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def timed() -> None:
        await asyncio.wait_for(scene(), 30)  # type: ignore[arg-type]

    asyncio.run(timed())


def test_every_request_gets_its_own_answer() -> None:
    recorder = Recorder()

    async def scene() -> None:
        async with Batcher(recorder, size=8, delay=0.01, waiting=2000) as batcher:
            answers = await asyncio.gather(*(batcher.ask(i) for i in range(1000)))
            assert answers == doubled(range(1000))

    play(scene)
    assert [i for batch in recorder.batches for i in batch] == list(range(1000))
    assert {len(batch) for batch in recorder.batches} == {8}  # all there: batches are full
    assert len(recorder.threads) == 1 and threading.get_ident() not in recorder.threads


def test_one_alone_waits_for_the_delay_and_a_full_batch_for_nothing() -> None:
    async def scene() -> None:
        async with Batcher(doubled, size=4, delay=0.3, waiting=10) as batcher:
            start = time.perf_counter()
            assert await asyncio.gather(*(batcher.ask(i) for i in range(4))) == [0, 2, 4, 6]
            assert time.perf_counter() - start < 0.25
            start = time.perf_counter()
            assert await batcher.ask(7) == 14
            assert 0.25 < time.perf_counter() - start < 5

    play(scene)


def test_who_waited_for_the_batch_before_waits_no_longer() -> None:
    recorder = Recorder(held=True)

    async def scene() -> None:
        async with Batcher(recorder, size=4, delay=0.2, waiting=10) as batcher:
            asked = [asyncio.create_task(batcher.ask(i)) for i in range(4)]
            await begun(recorder)
            asked.append(asyncio.create_task(batcher.ask(4)))
            await asyncio.sleep(0.25)
            recorder.leave.set()
            start = time.perf_counter()
            assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8]
            assert time.perf_counter() - start < 0.15

    play(scene)


def test_too_many_are_refused_and_told_when_to_come_again() -> None:
    recorder = Recorder(held=True)

    async def scene() -> None:
        async with Batcher(recorder, size=2, delay=0, waiting=3) as batcher:
            asked = [asyncio.create_task(batcher.ask(0))]
            await begun(recorder)
            asked += [asyncio.create_task(batcher.ask(i)) for i in (1, 2, 3)]
            await asyncio.sleep(0.01)
            assert batcher.queued == 3
            with pytest.raises(Full, match="try again in 1 s") as refused:
                await batcher.ask(4)
            assert refused.value.retry_after == 1
            recorder.leave.set()
            assert await asyncio.gather(*asked) == [0, 2, 4, 6]

    play(scene)


def test_who_leaves_frees_the_place_and_is_not_computed() -> None:
    recorder = Recorder(held=True)

    async def scene() -> None:
        async with Batcher(recorder, size=2, delay=0, waiting=1) as batcher:
            first = asyncio.create_task(batcher.ask(0))
            await begun(recorder)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await batcher.ask(1)
            assert batcher.queued == 0
            second = asyncio.create_task(batcher.ask(2))
            await asyncio.sleep(0.01)
            first.cancel()  # while its batch runs
            recorder.leave.set()
            assert await second == 4

    play(scene)
    assert recorder.batches == [[0], [2]]


def test_one_bad_item_does_not_fail_the_others() -> None:
    calls = []

    def run(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        if 3 in items:
            raise ValueError("three")
        return doubled(items)

    async def scene() -> None:
        async with Batcher(run, size=4, delay=0.05, waiting=10) as batcher:
            asked = (batcher.ask(i) for i in (1, 2, 3, 4))
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert answers[:2] + answers[3:] == [2, 4, 8]
            assert isinstance(answers[2], ValueError)
            assert await batcher.ask(5) == 10  # and the next batch runs

    play(scene)
    assert calls == [[1, 2, 3, 4], [1], [2], [3], [4], [5]]


def test_answers_that_are_too_few_are_nobodys() -> None:
    async def scene() -> None:
        async with Batcher(lambda items: [], size=1, delay=0, waiting=1) as batcher:
            with pytest.raises(AssertionError, match="1 items have 0 answers"):
                await batcher.ask(1)

    play(scene)


def test_at_the_end_what_was_taken_is_answered_and_no_more_is_taken() -> None:
    recorder = Recorder(held=True)

    async def scene() -> None:
        batcher = Batcher(recorder, size=2, delay=60, waiting=10)
        async with batcher:
            asked = [asyncio.create_task(batcher.ask(i)) for i in range(5)]
            await begun(recorder)
            threading.Timer(0.05, recorder.leave.set).start()
        assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8]
        with pytest.raises(Closed):
            await batcher.ask(9)

    play(scene)
    assert recorder.batches == [[0, 1], [2, 3], [4]]


def test_batches_are_told() -> None:
    told: list[tuple[int, float]] = []

    async def scene() -> None:
        many = Batcher(
            doubled, size=2, delay=0.01, waiting=9, told=lambda n, s: told.append((n, s))
        )
        async with many as batcher:
            await asyncio.gather(*(batcher.ask(i) for i in range(5)))

    play(scene)
    assert [size for size, _ in told] == [2, 2, 1] and all(0 <= s < 5 for _, s in told)
