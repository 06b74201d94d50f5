"""Many processes that do one run: who each is, and what they tell one another.

`torchrun` starts them and says by the environment who is who. Decisions are made from numbers that
all have alike, so that none waits for what another does not send. If one ends, what the others wait
for fails at once, and torchrun ends them.
"""

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from vitkit.errors import ConfigError, VitkitError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # that torchrun sets
SETTLING = 0.5  # seconds that threads get to let go of what they hold
PATIENCE = datetime.timedelta(days=1)  # for a rank that reads or writes while others wait
LOSSES = ("gloo", "Connection closed", "Connection reset", "Broken pipe", "recvValue failed")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run, seen from one of them; every rank must call the same, in order."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0  # among those of this machine
    local_ranks: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks of tensors of one shape, in place, on their device."""
        if self.ranks > 1:
            dist.all_reduce(tensor)
        return tensor

    def each(self, value: Value) -> list[Value]:
        """What every rank has, in the order of ranks."""
        if self.ranks == 1:
            return [value]
        values: list[Value | None] = [None] * self.ranks
        dist.all_gather_object(values, value)
        return cast(list[Value], values)

    def cat(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks in their order, (n, ...) -> (N, ...), where n may differ."""
        return torch.cat(self.each(tensor)) if self.ranks > 1 else tensor

    def of_first(self, value: Value) -> Value:
        """What the first rank has."""
        if self.ranks == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def follow_first(self, tensors: list[Tensor]) -> None:
        """Give tensors of one type the values that they have on the first rank."""
        if self.ranks == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.broadcast(flat, 0)
        for tensor, values in zip(
            tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(values.view_as(tensor))

    def wait(self) -> None:
        """Until all are here."""
        self.sum(torch.zeros(1))


SOLO = Group()


@dataclass(frozen=True, slots=True)
class Agreed:
    """What all ranks go by."""

    seconds: float  # by the first rank's clock
    stop: bool  # one of them is to
    save: bool  # the first finds it time


def agreed(group: Group, seconds: float = 0.0, *, stop: bool = False, save: bool = False) -> Agreed:
    """Bring together what each rank finds."""
    if group.ranks == 1:
        return Agreed(seconds, stop, save)
    said = [seconds, stop, save] if group.first else [0.0, stop, 0.0]
    total = group.sum(torch.tensor(said, dtype=torch.float64)).tolist()
    return Agreed(total[0], total[1] > 0, total[2] > 0)


def here() -> Group:
    """What torchrun says of this process; `SOLO` if it has not started it, or it alone."""
    if not all(name in os.environ for name in VARIABLES):
        return SOLO
    group = Group(*(int(os.environ[name]) for name in VARIABLES))
    return group if group.ranks > 1 else SOLO


def restarts() -> tuple[int, int]:
    """How often torchrun has started this process again, and how often it may."""
    names = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS")
    done, allowed = (int(os.environ.get(name, 0)) for name in names)
    return done, allowed


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """The group of the processes that torchrun has started; `SOLO` if it has not.

    Inside another `joined` it is the same group. A rank has the CUDA device of its local number.

    Raises:
        VitkitError: another rank has ended.
    """
    group = here()
    if group.ranks == 1 or dist.is_initialized():
        yield group
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(min(group.local_rank, torch.cuda.device_count() - 1))
    with _naming_losses():
        store, rank, ranks = next(rendezvous("env://", timeout=PATIENCE))
        # What ranks before a restart have left in torchrun's store must not be found.
        prefix = f"vitkit/{restarts()[0]}"
        store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
        try:
            yield group
            # gloo's threads outlive the group where a model was copied (docs/log.md), and one that
            # lets go of a tensor needs the interpreter: at whose end that aborts the process. After
            # an error there is no time: torchrun ends this process too, and it must have said why.
            time.sleep(SETTLING)
        finally:
            dist.destroy_process_group()


@contextlib.contextmanager
def _naming_losses() -> Iterator[None]:
    """One line for what is said where another rank has gone."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # gloo's are plain ones
        lost = isinstance(error, dist.DistError) or any(text in str(error) for text in LOSSES)
        if isinstance(error, VitkitError) or not lost:
            raise
        raise VitkitError("another rank has ended; what it or torchrun says tells why") from error


def check_device(device: torch.device, group: Group) -> None:
    """Check that every rank has a CUDA device of its own.

    Raises:
        ConfigError: there are too few, or one is named for all.
    """
    if group.ranks == 1 or device.type != "cuda":
        return
    if device.index is not None:
        raise ConfigError(
            f"device={device} is one device for {group.ranks} ranks; leave it to auto, which gives "
            "each its own"
        )
    count = torch.cuda.device_count()
    if group.local_ranks > count:
        raise ConfigError(
            f"{group.local_ranks} ranks share this machine's {count} CUDA devices; start "
            f"torchrun with --nproc-per-node {count}, or train with device=cpu"
        )
