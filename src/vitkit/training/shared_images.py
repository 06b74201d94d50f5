"""Images that the ranks of one machine decode once and hold once."""

import mmap
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from vitkit.data.loader import InMemory
from vitkit.errors import DataError
from vitkit.training.distributed import Group

SHARING = hasattr(os, "memfd_create")  # Linux; elsewhere every rank decodes for itself

Found = TypeVar("Found")


def read_together(
    read: Callable[[Callable[[tuple[int, int]], Tensor]], InMemory], group: Group
) -> InMemory:
    """What `read` gives, its rows in memory that all ranks of the machine share.

    It is given a function from a shape to the uint8 tensor that it must fill, and called by one
    rank of every machine. The memory has no name that could be left behind, and ends with the last
    of the processes.

    Raises:
        DataError: the machines read different images.
    """
    if group.ranks == 1 or not SHARING:
        return read(lambda shape: torch.empty(shape, dtype=torch.uint8))
    descriptor = os.memfd_create("vitkit images")

    def make(shape: tuple[int, int]) -> Tensor:
        os.ftruncate(descriptor, torch.Size(shape).numel())
        return mapped(descriptor, shape)

    found: tuple[str, InMemory] | None = None
    if group.local_rank == 0:
        memory = read(make)
        place = f"/proc/{os.getpid()}/fd/{descriptor}"
        found = place, replace(memory, rows=torch.empty(memory.rows.shape, device="meta"))
    place, told = of_machine(found, group)
    if found is None:
        with open(place, "r+b") as file:
            memory = replace(told, rows=mapped(file.fileno(), tuple(told.rows.shape)))
    group.wait()  # until all have opened it
    os.close(descriptor)
    same_everywhere(memory.keys, group)
    return memory


def mapped(descriptor: int, shape: tuple[int, ...]) -> Tensor:
    """The bytes of a file as a tensor: writing to it writes to all others of the same file."""
    memory = mmap.mmap(descriptor, torch.Size(shape).numel())
    return torch.frombuffer(memory, dtype=torch.uint8).view(shape)


def survey_together(survey: Callable[[], Found], group: Group) -> Found:
    """What `survey` finds, called by one rank of every machine.

    Raises:
        DataError: the machines find something different.
    """
    found = of_machine(survey() if group.local_rank == 0 else None, group)
    same_everywhere(found, group)
    return found


def of_machine(found: Found | None, group: Group) -> Found:
    """What the first rank of this machine has found."""
    first = group.each(found)[group.rank - group.local_rank]
    assert first is not None
    return first


def same_everywhere(found: object, group: Group) -> None:
    """Check that all machines have the same images.

    Raises:
        DataError: this one has not those of the first.
    """
    if group.of_first(found) != found:
        raise DataError(
            f"rank {group.rank} reads other images than rank 0; give every machine the same data"
        )
