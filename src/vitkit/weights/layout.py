"""Another library's names for our tensors: a table of two columns, read in both directions.

A table has one line for each kind of tensor, ours to the left, theirs to the right:

    blocks.[i].norm1.*         encoder.layer.[i].layernorm_before.*
    blocks.[i].attn.qkv.*      encoder.layer.[i].attention.attention.{query,key,value}.*
    layers.[i+1].downsample.*  layers.[i].downsample.*
    head.weight                head/kernel                                    : transpose

`[i]` and `[j]` are numbers, also as `[2i+1]`; `*` is the rest of a name. A line of one column is
for names that are the same. Several tensors in braces
are one of the other side's, one after the other along the first axis, unless a `: step` says how
they become each other.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.layers.position import Resize
from vitkit.models.backbone import Config

Tensors = dict[str, Tensor]
INDEX = re.compile(r"\[(\d*)([ij])(?:\+(\d+))?\]")
DEEP = re.compile(r"\d{2,}|[4-9]")  # later blocks, which are named as the first ones are
NUMERIC = ("norm_eps", "activation", "epsilons")  # fields of a configuration that change no tensor
BRACES = re.compile(r"\{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Step:
    """How the tensors of a line become ours, and ours theirs; numbers stay what they are.

    `write` is also given the configuration of the model, for what shapes no longer tell.
    """

    read: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    write: Callable[[Sequence[Tensor], Any], Sequence[Tensor]]


def joined(ours: int, theirs: int) -> Step:
    """As they are, or one tensor of ours is several of theirs along the first axis."""
    if ours == theirs:
        return Step(read=lambda tensors: tensors, write=lambda tensors, config: tensors)
    if ours == 1:
        return Step(
            read=lambda tensors: [torch.cat(list(tensors))],
            write=lambda tensors, config: tensors[0].chunk(theirs),
        )
    raise AssertionError(f"{ours} of ours and {theirs} of theirs need a step of their own")


@dataclass(frozen=True, slots=True)
class Name:
    """One name with its numbers and its rest left open."""

    text: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """An expression that matches it."""
        return _expression(self.text)

    def match(self, key: str) -> dict[str, Any] | None:
        """The numbers and the rest of a key that has this name."""
        found = self.pattern.fullmatch(key)
        if found is None:
            return None
        values: dict[str, Any] = {"*": found["rest"]} if "rest" in found.groupdict() else {}
        for factor, letter, offset in INDEX.findall(self.text):
            number, left = divmod(int(found[letter]) - int(offset or 0), int(factor or 1))
            if left or number < 0:
                return None
            values[letter] = number
        return values

    def fill(self, values: Mapping[str, Any]) -> str:
        """The key with these numbers and this rest."""

        def number(found: re.Match[str]) -> str:
            factor, letter, offset = found.groups()
            return str(int(factor or 1) * values[letter] + int(offset or 0))

        return INDEX.sub(number, self.text).replace("*", values.get("*", ""))


@functools.cache
def _expression(text: str) -> re.Pattern[str]:
    pattern = ""
    for part in re.split(r"(\[\d*[ij](?:\+\d+)?\]|\*)", text):
        index = INDEX.fullmatch(part)
        if part == "*":
            pattern += "(?P<rest>.+)"
        elif index is None:
            pattern += re.escape(part)
        elif f"(?P<{index[2]}>" in pattern:  # once more: the same number
            pattern += f"(?P={index[2]})"
        else:
            pattern += rf"(?P<{index[2]}>\d{{1,4}})"
    return re.compile(pattern)


@dataclass(frozen=True, slots=True)
class Line:
    """The names of a few of our tensors, and what makes them of a few of theirs."""

    ours: tuple[Name, ...]
    theirs: tuple[Name, ...]
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a library names the tensors of one family, and what else it computes in its own way."""

    source: str  # the library: "timm", "huggingface", "torchvision", "google" or "official"
    families: tuple[type[Config], ...]  # the first is meant where the tensors do not tell
    table: str
    steps: Mapping[str, Step] = field(default_factory=dict)  # by the words after a colon
    prefix: str = ""  # of every name but the bare ones, written, and read with or without it
    bare: tuple[str, ...] = ()  # beginnings of names without it
    wrappers: tuple[str, ...] = ()  # beginnings that names may have besides, never written
    ignored: tuple[str, ...] = ()  # names, with `*`, of what is computed anew or has no use here
    config: Mapping[str, Any] = field(default_factory=dict)  # fields that differ from ours
    resize: Resize = "bicubic_antialias"  # how its positions are brought to another grid
    preprocess: Mapping[str, Any] = field(default_factory=dict)  # timm's keys, as they were trained
    prepare: Callable[[Tensors], Tensors] = dict  # before names are looked up

    @property
    def lines(self) -> tuple[Line, ...]:
        """The table's lines."""
        return _parse(self.table, tuple(self.steps.items()))

    def share(self, tensors: Mapping[str, Tensor]) -> float:
        """The part of the tensors whose names are in the table, or known to be of no use."""
        keys = [key for key in self.plain(tensors) if not DEEP.search(key)]
        names = [name for line in self.lines for name in line.theirs]
        known = sum(
            any(name.match(key) is not None for name in names) or self.ignores(key) for key in keys
        )
        return known / max(len(keys), 1)

    def writes(self, config: Config) -> bool:
        """Whether a model of ours has this layout, as far as its configuration tells."""
        return type(config) in self.families and all(
            getattr(config, key) == value
            for key, value in self.config.items()
            if key not in NUMERIC
        )

    def names(self, key: str) -> bool:
        """Whether a key of ours is in the table."""
        return any(name.match(key) is not None for line in self.lines for name in line.ours)

    def ignores(self, key: str) -> bool:
        """Whether a key of theirs is one that we have no use for."""
        return any(re.fullmatch(re.escape(name).replace(r"\*", ".+"), key) for name in self.ignored)

    def plain(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """Their tensors under the names of the table, which have no prefix."""
        named = {}
        for key, tensor in tensors.items():
            for beginning in (*self.wrappers, self.prefix):
                key = key.removeprefix(beginning)
            named[key] = tensor
        return self.prepare(named)

    def read(self, tensors: Mapping[str, Tensor]) -> tuple[Tensors, Tensors]:
        """Our tensors of theirs, and those of theirs that have no line or are of no use.

        Raises:
            WeightsError: some of the tensors that make one of ours are there, others are not.
        """
        plain = self.plain(tensors)
        ours: Tensors = {}
        ignored = {key: tensor for key, tensor in plain.items() if self.ignores(key)}
        left = {key: tensor for key, tensor in plain.items() if key not in ignored}
        for line in self.lines:
            for values in _matches(line.theirs, left):
                theirs = [name.fill(values) for name in line.theirs]
                _check_all(theirs, left)
                parts = [left.pop(key) for key in theirs]
                made = _made(line.step.read, parts, theirs)
                ours |= dict(zip((name.fill(values) for name in line.ours), made, strict=True))
        return ours, left | ignored

    def write(self, tensors: Mapping[str, Tensor], config: Config) -> Tensors:
        """Their tensors of ours.

        Raises:
            WeightsError: they have no name for one.
        """
        theirs: Tensors = {}
        left = dict(tensors)
        for line in self.lines:
            for values in _matches(line.ours, left):
                ours = [name.fill(values) for name in line.ours]
                _check_all(ours, left)
                made = line.step.write([left.pop(key) for key in ours], config)
                theirs |= dict(zip((name.fill(values) for name in line.theirs), made, strict=True))
        if left:
            raise WeightsError(f"{self.source} has no name for {next(iter(left))}")
        return {k if k.startswith(self.bare) else self.prefix + k: t for k, t in theirs.items()}


def _matches(names: Sequence[Name], tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """The numbers and rests with which any of the names stands among the tensors, each once."""
    seen: list[dict[str, Any]] = []
    known = set()
    for key in tensors:
        for name in names:
            values = name.match(key)
            mark = None if values is None else tuple(sorted(values.items()))
            if values is not None and mark not in known:
                known.add(mark)
                seen.append(values)
    yield from seen


def _check_all(keys: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    missing = [key for key in keys if key not in tensors]
    if missing:
        there = next(key for key in keys if key in tensors)
        raise WeightsError(f"{missing[0]} is missing, which belongs to {there}")


def _made(
    read: Callable[[Sequence[Tensor]], Sequence[Tensor]], parts: list[Tensor], keys: list[str]
) -> Sequence[Tensor]:
    try:
        return read(parts)
    except (RuntimeError, ValueError, IndexError):
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise WeightsError(f"{keys[0]} cannot have the shape {shapes}") from None


@functools.cache
def _parse(table: str, steps: tuple[tuple[str, Step], ...]) -> tuple[Line, ...]:
    lines = []
    for row in filter(None, map(str.strip, table.splitlines())):
        columns, _, word = row.partition(" : ")
        left, *others = columns.split()
        ours, theirs = _names(left), _names(others[0] if others else left)
        step = dict(steps)[word.strip()] if word else joined(len(ours), len(theirs))
        lines.append(Line(ours, theirs, step))
    return tuple(lines)


def _names(text: str) -> tuple[Name, ...]:
    """`attn.{q,k}_proj` is attn.q_proj and attn.k_proj."""
    braces = BRACES.search(text)
    if braces is None:
        return (Name(text),)
    start, end = text[: braces.start()], text[braces.end() :]
    return tuple(Name(start + word + end) for word in braces[1].split(","))
