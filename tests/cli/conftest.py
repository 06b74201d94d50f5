"""Running commands inside the test's own process."""

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from vitkit.cli.main import main


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def vitkit_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`vitkit_command("models", "--json")` runs that as a shell would."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))  # `train` speaks of other work

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["vitkit", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return Done(code, *capfd.readouterr())

    return run
