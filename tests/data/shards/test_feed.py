"""A feed gives every rank its samples in a fixed order, wherever it begins."""

import time
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from vitkit.data.shards.ahead import Ahead
from vitkit.data.shards.feed import Feed
from vitkit.data.shards.order import Reference
from vitkit.data.shards.source import ShardSource, open_shards
from vitkit.errors import DataError


@pytest.fixture(scope="module")
def source(colour_shards: Path) -> ShardSource:
    return open_shards(str(colour_shards))


def feed(source: ShardSource, **given: object) -> Feed:
    options = {"seed": 1, "epoch": 2, "buffer": 16, "room": 1e9, **given}
    return Feed(source, range(len(source.shards)), **options)  # type: ignore[arg-type]


def places(one: Feed, count: int, start: int = 0) -> list[Reference]:
    samples = one.samples(start)
    found = [sample.place for sample in islice(samples, count)]
    samples.close()
    return found


@pytest.mark.parametrize("start", [0, 1, 15, 16, 17, 44, 59, 60, 61, 100])
def test_it_goes_on_alike_from_anywhere(source: ShardSource, start: int) -> None:
    whole = places(feed(source), 130)
    assert Counter(whole[:60]) == Counter(whole[60:120]) and len(set(whole)) == 60
    assert whole[:60] != whole[60:120]
    assert places(feed(source), 130 - start, start) == whole[start:]


def test_what_the_buffer_holds_is_read_again_and_no_shard_before(source: ShardSource) -> None:
    opened: list[int] = []

    class Watched:
        def samples(self, shard: int, piece: object) -> Iterator[object]:
            opened.append(shard)
            return source.reader.samples(shard, piece)  # type: ignore[arg-type]

    watched = replace(source, reader=Watched())
    one = feed(watched, buffer=2)
    state = one.state(40)
    assert len(state["held"]) == 2
    part = [piece.shard for piece in one.part(0)]
    later = part[len(part) // 2 :]
    assert places(one, 20, 40) == places(feed(source, buffer=2), 60)[40:]
    assert set(opened) <= {*later, *(shard for shard, _ in state["held"])}


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 20])
def test_ranks_share_the_samples(source: ShardSource, ranks: int) -> None:
    assert len(source.shards) < 20
    shown: Counter[Reference] = Counter()
    for rank in range(ranks):
        shown.update(places(feed(source, rank=rank, quotas=[60 // ranks] * ranks), 60 // ranks))
    assert len(shown) == 60 // ranks * ranks and set(shown.values()) == {1}


def test_a_buffer_over_its_room_is_one_line(source: ShardSource) -> None:
    with pytest.raises(DataError, match=r"lower data.shuffle_buffer=16"):
        places(feed(source, room=3000), 60)


def test_a_shard_with_less_than_its_index_says_is_one_line(
    colour_shards: Path, tmp_path: Path
) -> None:
    for path in colour_shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "train-000000.tar").write_bytes(
        (tmp_path / "train-000001.tar").read_bytes()[:5120] + bytes(1024)
    )
    with pytest.raises(DataError, match=r"train-000000.tar has fewer samples than the"):
        places(feed(open_shards(str(tmp_path))), 60)


def test_ahead_keeps_to_its_room_raises_errors_and_ends() -> None:
    made: list[int] = []
    closed: list[bool] = []

    def numbers() -> Generator[int]:
        try:
            for number in range(1000):
                made.append(number)
                yield number
                if number == 50:
                    raise DataError("broken")
        finally:
            closed.append(True)

    ahead = Ahead(numbers(), weigh=lambda number: 10, room=100)
    time.sleep(0.2)
    assert 10 <= len(made) <= 11
    assert list(islice(ahead, 51)) == list(range(51))
    with pytest.raises(DataError, match="broken"):
        next(ahead)
    closed.clear()
    other = Ahead(numbers(), weigh=lambda number: 10, room=20)
    assert next(other) == 0
    other.close()
    for _ in range(100):
        time.sleep(0 if closed else 0.02)
    assert closed
    assert next(other, None) is None
