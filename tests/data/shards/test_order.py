"""The order of samples: every one once, different for every epoch, the same however it is met."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from vitkit.data.shards.order import Piece, Reference, Shuffle, pieces, references, state_after

COUNTS = [5, 0, 13, 1, 8, 30, 2]


def parts(counts: list[int | None], ranks: int, **given: int) -> list[list[Piece]]:
    """What every rank reads."""
    quotas = [1] * ranks
    options = {"seed": 0, "epoch": 0, **given}
    return [pieces(counts, rank=rank, quotas=quotas, **options) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8, 59])
def test_counted_samples_are_in_one_part_each_and_parts_are_even(ranks: int) -> None:
    shares = [list(references(part)) for part in parts([*COUNTS], ranks, epoch=3)]
    everything = [Reference(shard, n) for shard, count in enumerate(COUNTS) for n in range(count)]
    assert Counter(one for share in shares for one in share) == Counter(everything)
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_more_ranks_than_samples_leave_none_empty() -> None:
    shares = [list(references(part)) for part in parts([2, 1], 5)]
    assert all(shares) and {one for share in shares for one in share} == {(0, 0), (0, 1), (1, 0)}


def test_quotas_decide_the_size_of_a_part() -> None:
    sizes = [
        len(list(references(pieces([10, 10], seed=0, epoch=0, rank=rank, quotas=[8, 7, 5]))))
        for rank in range(3)
    ]
    assert sizes == [8, 7, 5]


@pytest.mark.parametrize(("shards", "ranks"), [(7, 1), (7, 3), (7, 7), (2, 5), (1, 4)])
def test_shards_that_are_not_counted_are_dealt_to_every_rank(shards: int, ranks: int) -> None:
    shares = parts([None] * shards, ranks)
    assert all(shares)
    length = 20
    seen = Counter(
        (piece.shard, index)
        for share in shares
        for piece in share
        for index in range(length)
        if piece.wanted(index)
    )
    assert seen == Counter({(shard, n): 1 for shard in range(shards) for n in range(length)})


def test_the_order_of_shards_depends_on_seed_epoch_and_turn() -> None:
    def order(**given: int) -> tuple[int, ...]:
        (part,) = parts([1] * 9, 1, **given)
        return tuple(piece.shard for piece in part)

    assert order() == order()
    orders = {order(), order(seed=1), order(epoch=1), order(turn=1)}
    assert len(orders) == 4


def shuffled(count: int, size: int, key: tuple[int, ...] = (0, 0, 0), turns: int = 1) -> list[int]:
    """Numbers below `count` through a buffer."""

    def items_of(turn: int, start: int) -> Iterator[int]:
        return iter(range(start, count))

    return list(islice(Shuffle[int](key, size).run(items_of), count * turns))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (50, 1), (50, 7), (50, 50), (50, 500)])
def test_every_turn_shows_every_sample_once(count: int, size: int) -> None:
    found = shuffled(count, size, turns=3)
    for turn in range(3):
        assert sorted(found[turn * count : (turn + 1) * count]) == list(range(count))


def test_a_buffer_mixes_and_none_does_not() -> None:
    assert shuffled(50, 1) == list(range(50))
    mixed = shuffled(2000, 200)
    moved = [abs(place - item) for place, item in enumerate(mixed)]
    assert 100 < sum(moved) / len(moved) < 400
    assert mixed != shuffled(2000, 200, key=(0, 1, 0)) != shuffled(2000, 200, key=(0, 0, 1))
    assert mixed[:50] != shuffled(2000, 200, turns=2)[2000:2050]


def test_draws_are_even() -> None:
    first = Counter(shuffled(100, 10, key=(seed,))[0] for seed in range(2000))
    assert set(first) == set(range(10))
    assert max(first.values()) < 280 and min(first.values()) > 130  # 200 each, 13 as deviation


def test_nothing_to_show_ends() -> None:
    assert list(Shuffle[int]((0,), 4).run(lambda turn, start: iter(()))) == []


@pytest.mark.parametrize("samples", [0, 1, 10, 35, 58, 59, 60, 100, 150])
@pytest.mark.parametrize("size", [1, 16, 100])
def test_a_state_that_is_computed_goes_on_alike(samples: int, size: int) -> None:
    key = (4, 2, 0)

    def part_of(turn: int) -> list[Piece]:
        return pieces([*COUNTS], seed=4, epoch=2, turn=turn)

    def items_of(turn: int, start: int) -> Iterator[Reference]:
        return references(part_of(turn), start)

    whole = list(islice(Shuffle[Reference](key, size).run(items_of), 200))
    state = state_after(Shuffle(key, size), part_of, samples)
    assert len(state["held"]) <= size
    held = [Reference(*place) for place in state["held"]]
    resumed = Shuffle[Reference](key, size).at(state, held)
    assert list(islice(resumed.run(items_of), 200 - samples)) == whole[samples:]
