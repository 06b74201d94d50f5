"""What `vitkit inspect` says of a model, for people and for programs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import typer

from vitkit.cli.screen import visible

if TYPE_CHECKING:
    from vitkit.models.backbone import Config
    from vitkit.models.cost import Footprint
    from vitkit.models.formula import Group

WORDS = 3  # of the glossary in a line
BAR = 20  # characters for all of a model
EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, or a checkpoint and the model that it is of."""

    name: str
    config: "Config"
    checkpoint: str | None = None
    numbers: int | None = None  # in the tensors of the checkpoint
    notes: tuple[str, ...] = ()  # what was guessed of it


@dataclass(frozen=True, slots=True)
class Sheet:
    """Everything that is said of a subject."""

    subject: Subject
    groups: Sequence["Group"]
    counted: int  # parameters of the model, or numbers in the checkpoint's tensors
    cost: "Footprint"
    beside: Sequence[tuple["Config", "Footprint"]]  # other sizes

    @property
    def derived(self) -> int:
        """What the formulas sum to."""
        return sum(part.parameters for group in self.groups for part in group.parts)


def to_json(sheet: Sheet) -> dict[str, Any]:
    """All that is shown, as JSON has it; a formula reads the `symbols` beside it."""
    from vitkit.models import source

    subject = sheet.subject
    return {
        "name": subject.name,
        "checkpoint": subject.checkpoint,
        "notes": subject.notes,
        "source": source(subject.name),
        **of_size(subject.config, sheet.cost),
        "parameters": sheet.counted,
        "derived": sheet.derived,
        "parts": [
            {
                "part": f"{group.title}: {part.part}".removeprefix(": "),
                "formula": part.formula,
                "symbols": group.symbols,
                "parameters": part.parameters,
            }
            for group in sheet.groups
            for part in group.parts
        ],
        "side_by_side": [of_size(config, cost) for config, cost in sheet.beside],
    }


def of_size(config: "Config", cost: "Footprint") -> dict[str, Any]:
    """A cost with the patch size that it is for."""
    return {"patch_size": getattr(config, "patch_size", None), **cost.to_json()}


def show(sheet: Sheet) -> None:
    """The whole screen."""
    from vitkit.models import source

    subject = sheet.subject
    place = "" if subject.checkpoint is None else f"  {visible(subject.checkpoint)}"
    size = f"{sheet.counted:,} parameters, {operations(sheet.cost.macs)}MACs"
    typer.echo(f"{bold(subject.name)}  {size}  {source(subject.name)}{place}")
    for note in subject.notes:
        typer.echo(visible(note))
    tables = [part_table(sheet), glossary(sheet.groups), cost_lines(sheet.cost)]
    if sheet.beside:
        tables.append(side_by_side(sheet.beside))
    for table in tables:
        typer.echo()
        for line in table:
            typer.echo(line)


def part_table(sheet: Sheet) -> Iterator[str]:
    """Every part with its formula, then their sum beside the count."""
    parts = [part for group in sheet.groups for part in group.parts]
    name = max(len(part.part) for part in parts) + 2
    formula = max(len(part.formula) for part in parts)
    yield dim(f"{'part':<{name}}  {'formula':<{formula}}  {'parameters':>13}   share")
    for group in sheet.groups:
        values = " ".join(f"{symbol}={value:,}" for symbol, value in group.symbols.items())
        yield f"{group.title or 'with'} {dim(values)}"
        for part in group.parts:
            share = part.parameters / sheet.derived
            drawn = f"  {typer.style(bar(share), fg='cyan')}" if bar(share) else ""
            yield (
                f"  {part.part:<{name - 2}}  {part.formula:<{formula}}  {part.parameters:>13,}"
                f"  {share:>6.1%}{drawn}"
            )
    counted = "in the model" if sheet.subject.checkpoint is None else "in the file"
    equal = sheet.derived == sheet.counted
    verdict = "✓ equal" if equal else f"✗ {sheet.counted - sheet.derived:+,}"
    verdict = typer.style(verdict, fg="green" if equal else "red", bold=True)
    yield bold(f"{'sum':<{name + formula + 2}}  {sheet.derived:>13,}")
    yield bold(f"{counted:<{name + formula + 2}}  {sheet.counted:>13,}") + f"  {verdict}"


def glossary(groups: Sequence["Group"]) -> Iterator[str]:
    """What the symbols of the formulas mean."""
    from vitkit.models.formula import GLOSSARY

    read = dict.fromkeys(symbol for group in groups for symbol in group.symbols)
    words = [f"{symbol} {GLOSSARY[symbol]}" for symbol in read if symbol in GLOSSARY]
    for start in range(0, len(words), WORDS):
        line = "".join(f"{word:<30}" for word in words[start : start + WORDS])
        yield dim(line.rstrip())


def cost_lines(cost: "Footprint") -> Iterator[str]:
    """What one image makes the model compute and keep."""
    size = "x".join(map(str, cost.image_size))
    yield dim(f"one image of {size} pixels")
    yield f"{'MACs':<18} {operations(cost.macs)}"
    if cost.tokens:
        yield f"{'tokens':<18} {cost.tokens:,}"
        runs = [(scores, len(list(run))) for scores, run in groupby(cost.scores)]
        layers = " + ".join(f"{count} x {scores:,}" for scores, count in runs)
        yield f"{'attention scores':<18} {layers} = {sum(cost.scores):,}"
        share = cost.attention_macs / cost.macs
        yield f"{'quadratic part':<18} {operations(cost.attention_macs)}, {share:.1%} of the MACs"
    kept = f"{mebi(cost.activation_bytes)} in float32"
    maps = f", {mebi(cost.attention_bytes)} of it attention maps (none with fused kernels)"
    yield f"{'kept for training':<18} {kept}{maps if cost.tokens else ''}"


def side_by_side(rows: Sequence[tuple["Config", "Footprint"]]) -> Iterator[str]:
    """One line for each size."""
    cells = [dict(columns(config, cost)) for config, cost in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in cells)) for name in cells[0]}
    yield dim("   ".join(f"{name:>{width}}" for name, width in widths.items()))
    for row in cells:
        yield "   ".join(f"{row[name]:>{width}}" for name, width in widths.items())


def columns(config: "Config", cost: "Footprint") -> Iterator[tuple[str, str]]:
    """What the table says of one size; nothing of tokens where there are none."""
    yield "image", "x".join(map(str, cost.image_size))
    if hasattr(config, "patch_size"):
        yield "patch", str(config.patch_size)
    if cost.tokens:
        yield "tokens", f"{cost.tokens:,}"
    yield "parameters", f"{cost.parameters:,}"
    yield "MACs", operations(cost.macs)
    if cost.tokens:
        share = cost.attention_macs / cost.macs
        yield "quadratic part", f"{operations(cost.attention_macs)} {share:>6.1%}"
        yield "attention maps", mebi(cost.attention_bytes)
    yield "kept", mebi(cost.activation_bytes)


def bar(share: float) -> str:
    """A share of 1 as a bar."""
    whole, rest = divmod(round(share * BAR * 8), 8)
    return "█" * whole + EIGHTHS[rest].strip()


def operations(macs: int) -> str:
    """A number of multiply-accumulates."""
    return f"{macs / 1e9:,.2f} G" if macs >= 1e9 else f"{macs / 1e6:,.2f} M"


def mebi(number: int) -> str:
    """A number of bytes."""
    return f"{number / 2**20:,.1f} MiB"


def bold(text: str) -> str:
    return typer.style(text, bold=True)


def dim(text: str) -> str:
    return typer.style(text, dim=True)
