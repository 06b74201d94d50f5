"""The samples of an epoch, as one rank gets them: shards in random order, through a buffer."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vitkit.data.shards.ahead import Ahead
from vitkit.data.shards.order import Piece, Reference, Shuffle, pieces, rest, state_after
from vitkit.data.shards.samples import Sample
from vitkit.data.shards.source import ShardSource
from vitkit.errors import DataError

AHEAD_BYTES = 64_000_000  # of images that are read before they are needed


@dataclass(frozen=True, slots=True)
class Feed:
    """What decides the order of a rank's samples in an epoch."""

    source: ShardSource
    shards: Sequence[int]  # by their numbers in the source
    seed: int
    epoch: int
    buffer: int  # samples that are held to be drawn from
    room: float  # bytes that they may take
    rank: int = 0
    quotas: Sequence[int] = (1,)  # samples of an epoch for each rank, or their proportions

    @property
    def counted(self) -> bool:
        """Whether the order is known before anything is read."""
        return all(self.source.shards[shard].samples is not None for shard in self.shards)

    def part(self, turn: int) -> list[Piece]:
        """What the rank reads when it goes through the shards for the `turn`-th time."""
        counts = [self.source.shards[shard].samples for shard in self.shards]
        found = pieces(
            counts,
            seed=self.seed,
            epoch=self.epoch,
            turn=turn,
            rank=self.rank,
            quotas=self.quotas,
        )
        return [Piece(self.shards[one.shard], one.start, one.stop, one.step) for one in found]

    def state(self, start: int) -> dict[str, Any]:
        """Where counted shards stand after `start` samples; what the buffer holds, by places."""
        return state_after(Shuffle(self._key, self.buffer), self.part, start)

    def samples(self, start: int = 0) -> Generator[Sample]:
        """All from number `start`, without end, or none where there are none.

        Of counted shards only what comes later is read, and what the buffer holds; others are read
        from their front.

        Raises:
            DataError: a shard cannot be read or is damaged, or the buffer holds more than `room`.
        """
        shuffle: Shuffle[Sample] = Shuffle(self._key, self.buffer)
        if start and self.counted:
            state = self.state(start)
            held = self.source.fetch([Reference(*place) for place in state["held"]])
            shuffle, start = shuffle.at(state, held), 0
        weight = sum(len(sample.image) for sample in shuffle.held)

        def items_of(turn: int, begin: int) -> Iterator[Sample]:
            nonlocal weight
            ahead = Ahead(self._read(turn, begin), weigh=weigh, room=AHEAD_BYTES)
            try:
                for sample in ahead:
                    weight += len(sample.image)
                    self._check(weight, len(shuffle.held))
                    yield sample
            finally:
                ahead.close()

        shown = shuffle.run(items_of)
        for sample in shown:
            weight -= len(sample.image)
            if start:
                start -= 1
            else:
                yield sample

    @property
    def _key(self) -> tuple[int, ...]:
        return self.seed, self.epoch, self.rank

    def _read(self, turn: int, begin: int) -> Generator[Sample]:
        part = self.part(turn)
        for piece in rest(part, begin) if begin else part:
            yield from self.source.part(piece)

    def _check(self, weight: int, held: int) -> None:
        if weight > self.room:
            raise DataError(
                f"{self.source.name}: {held:,} images that are held for shuffling take over "
                f"{self.room / 1e9:.3g} GB; lower data.shuffle_buffer={self.buffer}, or set "
                "data.memory_gb to what you can spare"
            )


def weigh(sample: Sample) -> int:
    """Bytes of a sample, roughly."""
    return len(sample.image) + 1000
