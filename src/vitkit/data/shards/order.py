"""Which samples of which shards a rank reads, and in which order it shows them.

Everything is decided by seed, epoch and rank, so that a stream can be taken up anywhere: where the
samples of every shard are counted, its state after so many samples is computed, not stored.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

BLOCK = 1024  # random numbers drawn at a time
EMPTY_TURNS = 64  # in a row, after which there is nothing to be shown

Item = TypeVar("Item")


class Reference(NamedTuple):
    """A sample by its place."""

    shard: int
    number: int  # in the shard


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples of a shard, from `start` to before `stop` (None: to its end), every `step`-th."""

    shard: int
    start: int = 0
    stop: int | None = None
    step: int = 1

    def wanted(self, index: int) -> bool:
        """Whether a sample belongs to the piece."""
        inside = self.start <= index and (self.stop is None or index < self.stop)
        return inside and (index - self.start) % self.step == 0


def pieces(
    counts: Sequence[int | None],
    *,
    seed: int,
    epoch: int,
    turn: int = 0,
    rank: int = 0,
    quotas: Sequence[int] = (1,),
) -> list[Piece]:
    """What a rank reads in a turn: its part of all shards, these in random order.

    With counted shards the samples of all, in a row, are cut into parts as large as `quotas` says,
    one number for every rank: each sample is in one part, however few shards there are. Shards that
    are not counted are dealt out whole; ranks that would get none take turns within one. A rank
    reads turn after turn until its epoch is full, so that all ranks have as many batches; one whose
    part is empty, as there are fewer samples than ranks, reads all.
    """
    order = np.random.default_rng((seed, epoch, turn)).permutation(len(counts)).tolist()
    ranks = len(quotas)
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        if len(counts) >= ranks:
            return [Piece(shard) for shard in order[rank::ranks]]
        place = rank % len(counts)
        sharing = range(place, ranks, len(counts))
        return [Piece(order[place], sharing.index(rank), None, len(sharing))]
    total, all_quotas = sum(known), sum(quotas)
    first = total * sum(quotas[:rank]) // all_quotas
    last = total * sum(quotas[: rank + 1]) // all_quotas
    if first == last:
        first, last = 0, total
    found = []
    at = 0
    for shard in order:
        start, stop = max(first - at, 0), min(last - at, known[shard])
        if start < stop:
            found.append(Piece(shard, start, stop))
        at += known[shard]
    return found


@dataclass(slots=True)
class Shuffle(Generic[Item]):
    """A buffer through which samples pass in random order, and where it stands: its state.

    When it is full, each that comes in sends a random one out; at the end of a turn all go.
    """

    key: tuple[int, ...]  # seed, epoch and rank
    size: int  # of the buffer, samples
    turn: int = 0  # times that the rank's part was passed through
    pushed: int = 0  # samples that came in, in this turn
    drawn: int = 0  # random numbers used, in this turn
    held: list[Item] = field(default_factory=list)
    _numbers: tuple[tuple[int, int], list[float]] = ((-1, -1), [])

    def run(self, items_of: Callable[[int, int], Iterator[Item]]) -> Iterator[Item]:
        """Samples without end; `items_of(turn, start)` gives those of a turn from number `start`.

        It ends after many turns without any.
        """
        empty = 0
        while empty < EMPTY_TURNS:
            for item in items_of(self.turn, self.pushed):
                self.pushed += 1
                if len(self.held) < self.size:
                    self.held.append(item)
                    continue
                place = self._draw()
                out, self.held[place] = self.held[place], item
                yield out
            empty = 0 if self.pushed else empty + 1
            while self.held:
                place = self._draw()
                self.held[place], self.held[-1] = self.held[-1], self.held[place]
                yield self.held.pop()
            self.turn, self.pushed, self.drawn = self.turn + 1, 0, 0

    def _draw(self) -> int:
        """A random place in the buffer."""
        block, place = divmod(self.drawn, BLOCK)
        if self._numbers[0] != (self.turn, block):
            numbers = np.random.default_rng((*self.key, self.turn, block)).random(BLOCK).tolist()
            self._numbers = (self.turn, block), numbers
        self.drawn += 1
        return int(self._numbers[1][place] * len(self.held))

    def state(self, reference: Callable[[Item], Reference]) -> dict[str, Any]:
        """Where it stands, as JSON has it; samples by their `reference`."""
        return {
            "turn": self.turn,
            "pushed": self.pushed,
            "drawn": self.drawn,
            "held": [list(reference(item)) for item in self.held],
        }

    def at(self, state: dict[str, Any], items: Sequence[Item]) -> "Shuffle[Item]":
        """The same buffer in a `state`, its samples being `items`."""
        turn, pushed, drawn = (int(state[name]) for name in ("turn", "pushed", "drawn"))
        return Shuffle(self.key, self.size, turn, pushed, drawn, list(items))


def references(part: Sequence[Piece], start: int = 0) -> Iterator[Reference]:
    """The samples of counted pieces, from number `start`."""
    for piece in rest(part, start):
        for index in range(piece.start, piece.stop or 0, piece.step):
            yield Reference(piece.shard, index)


def rest(part: Sequence[Piece], start: int) -> Iterator[Piece]:
    """Counted pieces without their first `start` samples."""
    for piece in part:
        count = len(range(piece.start, piece.stop or 0, piece.step))
        if start < count:
            yield Piece(piece.shard, piece.start + start * piece.step, piece.stop, piece.step)
        start = max(start - count, 0)


def state_after(
    shuffle: Shuffle[Reference], part_of: Callable[[int], Sequence[Piece]], samples: int
) -> dict[str, Any]:
    """The state of a `shuffle` of counted shards after so many samples, without reading any."""

    def items_of(turn: int, start: int) -> Iterator[Reference]:
        return references(part_of(turn), start)

    shown = shuffle.run(items_of)
    for _ in range(samples):
        next(shown)
    return shuffle.state(lambda item: item)
