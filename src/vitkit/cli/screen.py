"""What a person sees while a command works: a bar on a terminal, plain lines elsewhere.

All of it goes to standard error; standard output is for results.
"""

import sys
import time
import unicodedata
from collections.abc import Sequence
from math import inf
from types import TracebackType

from vitkit.progress import Progress

PLAIN_EVERY = 10.0  # seconds between lines of a phase where there is no terminal


class Screen:
    """Shows progress; a context manager, so that the bar is gone afterwards.

    The bar comes with the first progress: until then the terminal is free for results. A `quiet`
    one shows nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        # Here: a command that only prints its help does without rich.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.bar = Bar(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=20, complete_style="cyan", finished_style="cyan"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
            redirect_stdout=False,  # a result on its way to a file or pipe stays out of the bar
        )
        self.task = self.bar.add_task("", total=None, figures="", visible=False)
        self.spoke = time.monotonic()

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:  # otherwise it prints an empty line
            self.bar.stop()
        if kind is KeyboardInterrupt:
            self.say("interrupted")

    def __call__(self, progress: Progress) -> None:
        """Show how far the work has come."""
        parts = [visible(f"{name} {value}") for name, value in progress.figures.items()]
        figures = "  ".join(parts)
        if progress.final:
            self.say(f"{progress.phase:<12} {self.in_rows(parts)}")
        elif self.console.is_terminal:
            self.bar.start()  # once; later calls do nothing
            self.bar.update(
                self.task,
                description=progress.phase,
                completed=progress.done,
                total=progress.total,
                figures=figures,
                visible=progress.done < progress.total,
            )
        elif time.monotonic() - self.spoke > PLAIN_EVERY:
            self.spoke = time.monotonic()
            self.say(f"{progress.phase:<12} {progress.done:,}/{progress.total:,}  {figures}")

    def in_rows(self, parts: Sequence[str], indent: int = 13) -> str:
        """The parts side by side, on further rows where the terminal is too narrow for one."""
        width = self.console.width - indent if self.console.is_terminal else inf
        rows = [""]
        for part in parts:
            if rows[-1] and len(rows[-1]) + 2 + len(part) > width:
                rows.append("")
            rows[-1] += "  " * bool(rows[-1]) + part
        return f"\n{' ' * indent}".join(rows)

    def say(self, line: str, style: str | None = None) -> None:
        """One line that stays."""
        self.console.print(line, style=style, markup=False, emoji=False, soft_wrap=True)


def warn(line: str) -> None:
    """One line on standard error, whatever the names of files in it hold."""
    sys.stderr.write(f"vitkit: {visible(line)}\n")  # at once, as other ranks may speak too


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number of things in words: `1 class`, `2,000 classes`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def visible(text: str) -> str:
    """The text with control characters and line ends escaped, as in `repr`."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        else character
        for character in text
    )
