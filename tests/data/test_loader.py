"""Reading ahead: its order, its bound and its end; a whole source in memory."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vitkit.data.audit import content_key
from vitkit.data.crop import squeezed
from vitkit.data.loader import available_memory, default_workers, look_ahead, read_all
from vitkit.data.sources import Sample, Source, open_source
from vitkit.data.transforms import Preprocess
from vitkit.errors import DataError, ImageError
from vitkit.progress import Progress

SMALL = Preprocess(image_size=(12, 16))


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("vitkit-read")]


def broken_every(nth: int, count: int = 150) -> Source:
    """Pictures of many sizes; each `nth` cannot be read."""

    def read(index: int) -> NDArray[np.uint8]:
        if index % nth == nth - 1:
            raise ImageError(f"number {index} is torn; mend it")
        shape = (8 + index % 5, 8 + index % 7, 3)
        return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)

    samples = tuple(Sample(f"{index:03d}.png", 0) for index in range(count))
    return Source("made", ("only",), samples, read)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("ahead", [0, 3, 1000])
def test_order(workers: int, ahead: int) -> None:
    """The first items take longest, so that threads finish them last."""

    def square(x: int) -> int:
        time.sleep(0.01 if x < 3 else 0)
        return x * x

    given = list(look_ahead(square, range(100), workers=workers, ahead=ahead))
    assert given == [x * x for x in range(100)]
    assert not readers()


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_bound(ahead: int) -> None:
    """While item i is looked at, nothing past i + ahead has been started or asked for."""
    started: list[int] = []
    asked: list[int] = []

    def items() -> Iterator[int]:
        for index in itertools.count():  # without an end
            asked.append(index)
            yield index

    for index in look_ahead(lambda x: started.append(x) or x, items(), workers=3, ahead=ahead):
        time.sleep(0.002)  # time for more to start, were it allowed
        assert max(started) <= index + ahead
        assert asked == list(range(index + ahead + 1))
        if index == 30:
            break


def test_threads_work_at_once() -> None:
    """None of the four returns before all have been called."""
    meeting = threading.Barrier(4, timeout=30)

    def meet(x: int) -> int:
        meeting.wait()
        return x

    assert list(look_ahead(meet, range(8), workers=4, ahead=4)) == list(range(8))


def test_an_error_comes_in_its_place() -> None:
    def fail_at_four(x: int) -> int:
        if x == 4:
            raise RuntimeError("four")
        return x

    given = look_ahead(fail_at_four, range(1000), workers=2, ahead=50)
    assert list(itertools.islice(given, 4)) == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="four"):
        next(given)
    assert not readers()


def test_an_error_of_the_items_comes_through() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(look_ahead(str, items(), workers=2, ahead=5))
    assert not readers()


def test_abandoned_threads_end() -> None:
    started: list[int] = []

    def slow(x: int) -> int:
        started.append(x)
        time.sleep(0.005)
        return x

    given = look_ahead(slow, range(10_000), workers=2, ahead=5_000)
    assert next(given) == 0
    assert readers()
    given.close()
    assert not readers()
    assert len(started) < 5_000  # what waited was cancelled


def test_nothing_starts_before_it_is_asked_for() -> None:
    look_ahead(pytest.fail, range(10), workers=2, ahead=5)
    assert not readers()


@pytest.mark.parametrize("workers", [1, 4, None])
@pytest.mark.parametrize("channels", [1, 3])
def test_read_all(workers: int | None, channels: int) -> None:
    source = broken_every(11)
    preprocess = Preprocess(image_size=(12, 16), mean=(0.5,) * channels, std=(0.5,) * channels)
    memory = read_all(source, preprocess, workers=workers)
    assert memory.images.shape == (150, channels, 12, 16) and len(memory.keys) == 150
    assert memory.whole is None
    for index in range(150):
        if index % 11 == 10:
            assert memory.keys[index] is None
            continue
        image = source.read(index)
        assert memory.keys[index] == content_key(image)
        np.testing.assert_array_equal(memory.images[index].numpy(), preprocess.fit(image))
    assert memory.unreadable == tuple(
        (f"{index:03d}.png", f"number {index} is torn; mend it") for index in range(10, 150, 11)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_whole_images_are_kept_beside(channels: int) -> None:
    source = broken_every(11)
    preprocess = Preprocess(
        image_size=(12, 16), crop=0.5, mean=(0.5,) * channels, std=(0.5,) * channels
    )
    memory = read_all(source, preprocess, frame=(14, 18))
    assert memory.rows.shape == (150, channels * (12 * 16 + 14 * 18))
    whole = memory.whole
    assert whole is not None and whole.shape == (150, channels, 14, 18)
    for index in range(150):
        if index % 11 != 10:
            image = source.read(index)
            assert memory.sides[index].tolist() == list(image.shape[:2])
            np.testing.assert_array_equal(memory.images[index].numpy(), preprocess.fit(image))
            assert torch.equal(whole[index], squeezed(image, (14, 18), preprocess))


def test_read_all_says_how_far_it_is() -> None:
    heard: list[Progress] = []
    read_all(broken_every(1000), SMALL, workers=2, listen=heard.append)
    assert {progress.phase for progress in heard} == {"read"}
    assert [(progress.done, progress.total) for progress in heard] == [
        (64, 150), (128, 150), (150, 150)
    ]  # fmt: skip


def test_read_all_of_nothing() -> None:
    source = Source("empty", (), (), pytest.fail)
    memory = read_all(source, SMALL)
    assert memory.images.shape == (0, 3, 12, 16)
    assert memory.keys == () and memory.unreadable == ()


def test_other_errors_are_not_swallowed() -> None:
    def read(index: int) -> NDArray[np.uint8]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read_all(Source("bad", (), (Sample("a"),), read), SMALL)


def test_memory_limit() -> None:
    """150 x 3 x 12 x 16 bytes are 86,400: refused by a byte, before anything is read."""
    source = broken_every(1000)
    unread = Source(source.name, source.classes, source.samples, pytest.fail)
    with pytest.raises(
        DataError,
        match=r"^150 images of 12x16 pixels .* data\.memory_gb = 8\.64e-05 GB; .*image_si",
    ):
        read_all(unread, SMALL, memory_gb=86_399e-9)
    assert len(read_all(source, SMALL, memory_gb=86_400e-9).keys) == 150


MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((None, None), MACHINE),
        (("max\n", None), MACHINE),
        (("3000000\n", None), 3_000_000),
        ((None, "2000000\n"), 2_000_000),
        ((None, "9223372036854771712\n"), MACHINE),  # version 1 without a limit
        (("4000000", "9223372036854771712"), 4_000_000),
    ],
)
def test_memory_of_machine_and_container(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[str | None, ...],
    expected: int,
) -> None:
    paths = (tmp_path / "v2", tmp_path / "v1")
    for path, text in zip(paths, limits, strict=True):
        if text is not None:
            path.write_text(text)
    monkeypatch.setattr("vitkit.data.loader.MEMORY_LIMITS", paths)
    assert available_memory() == expected
    side = 1000
    count = int(expected / 2 / (3 * side * side)) + 1
    source = Source("vast", (), (Sample("x"),) * count, pytest.fail)
    with pytest.raises(DataError, match="more than half of what there is, .* or set data.memory_"):
        read_all(source, Preprocess(image_size=(side, side)))


def test_default_memory_limit_is_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = broken_every(1000)  # 86,400 bytes
    (tmp_path / "v2").write_text("172800")
    monkeypatch.setattr("vitkit.data.loader.MEMORY_LIMITS", (tmp_path / "v2",))
    assert len(read_all(source, SMALL).keys) == 150
    (tmp_path / "v2").write_text("172798")
    with pytest.raises(DataError, match="^150 images of 12x16 pixels"):
        read_all(source, SMALL)


def test_read_all_of_real_images(unpacked: Callable[[str], "os.PathLike[str]"]) -> None:
    source = open_source(os.fspath(unpacked("flowers.zip")))
    part = source.subset(range(0, len(source.samples), max(len(source.samples) // 20, 1)))
    memory = read_all(part, SMALL, workers=2)
    for index in range(len(part.samples)):
        expected = SMALL.fit(part.read(index))
        np.testing.assert_array_equal(memory.images[index].numpy(), expected)
    assert memory.unreadable == () and len(set(memory.keys)) == len(part.samples)


def test_default_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_workers() == min(len(os.sched_getaffinity(0)), 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert default_workers() == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 9})
    assert default_workers() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers() == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert default_workers() == 6
