"""What a person sees while a command works: a bar on a terminal, plain lines elsewhere.

All of it goes to standard error; standard output is for results.
"""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from vitkit.progress import Progress

PLAIN_EVERY = 10.0  # seconds between lines of one phase where there is no terminal


class Screen:
    """Shows progress; a context manager, so that the bar is gone afterwards."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bar = Bar(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=28, complete_style="cyan", finished_style="cyan"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
        )
        self.task = self.bar.add_task("", total=None, figures="", visible=False)
        self.spoke = 0.0
        self.phase = ""

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show how far the work has come."""
        figures = "  ".join(f"{name} {value}" for name, value in progress.figures.items())
        ended = progress.done >= progress.total
        if progress.final:
            self.say(f"{progress.phase:<14} {figures}")
        elif self.console.is_terminal:
            self.bar.update(
                self.task,
                description=progress.phase,
                completed=progress.done,
                total=progress.total,
                figures=figures,
                visible=not ended,
            )
        elif time.monotonic() - self.spoke > PLAIN_EVERY or (ended and progress.phase == "read"):
            self.spoke = time.monotonic()
            self.say(f"{progress.phase:<14} {progress.done}/{progress.total}  {figures}")

    def say(self, line: str) -> None:
        """One line that stays."""
        self.console.print(line, markup=False, soft_wrap=True)


def warn(line: str) -> None:
    """One line on standard error."""
    print(f"vitkit: {line}", file=sys.stderr)
