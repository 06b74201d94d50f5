"""`kill -9` at any moment: a run goes on, and ends with the same bits."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kills.py")


@pytest.mark.parametrize(
    ("trials", "seed"), [(10, 0), pytest.param(200, 1, marks=pytest.mark.slow)]
)
def test_killed_runs_end_as_if_they_had_never_been(tmp_path: Path, trials: int, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, str(trials), str(seed)],
        capture_output=True,
        text=True,
        timeout=2400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(
        f"{trials} of {trials} runs ended as if they had never been killed\n"
    )
