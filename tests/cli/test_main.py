"""What all commands share: help, version, errors, a quick start."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vitkit

COMMANDS = ("demo", "models", "train", "eval", "predict", "doctor")
LIMIT = 0.3  # seconds


def spent(arguments: list[str], cache: Path) -> float:
    """Seconds of processor time, which other programs change less than the clock's."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, env=environment)
    wall = time.perf_counter() - started
    after = os.times()
    assert done.returncode == 0, done.stderr
    used = after.children_user + after.children_system
    return min(wall, used - before.children_user - before.children_system)


def test_help_comes_at_once(tmp_path: Path) -> None:
    for command in ([], *([name] for name in COMMANDS)):
        arguments = ["-m", "vitkit", *command, "--help"]
        tries = (spent(arguments, tmp_path) for _ in range(6))
        assert any(seconds < LIMIT for seconds in tries), command


def test_help_does_without_torch() -> None:
    script = f"""
import sys
from vitkit.cli.main import app
for command in {COMMANDS}:
    app([command, "--help"], prog_name="vitkit", standalone_mode=False)
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f"Usage: vitkit {command} " in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "vitkit.cli.train" in loaded
    assert not loaded & {"torch", "numpy", "PIL", "sklearn", "pyarrow", "matplotlib", "rich"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(vitkit_command, command: str) -> None:
    done = vitkit_command(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert "--debug" in done.out
    assert vitkit_command(command, "-h").out == done.out


def test_the_list_of_commands_cuts_no_sentence(vitkit_command, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = vitkit_command("--help")
    for command in COMMANDS:
        assert f"  {command} " in done.out
    assert "..." not in done.out.partition("Commands:")[2]


def test_without_arguments_it_shows_the_help(vitkit_command) -> None:
    done = vitkit_command()
    assert "Commands:" in done.out + done.err
    assert done.code in (0, 2)


def test_the_version(vitkit_command) -> None:
    assert vitkit_command("--version") == (0, f"vitkit {vitkit.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'DATA'"),
        (["models", "--jsn"], "No such option"),
        (["predict", "x", "y", "--topk", "0"], "--topk"),
        (["eval", "x"], "Missing argument 'DATA'"),
    ],
)
def test_wrong_usage_is_two(vitkit_command, arguments: list[str], message: str) -> None:
    done = vitkit_command(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "absent"], "absent does not exist"),
        (["train", "digits", "epoch=3"], "did you mean 'epochs'?"),
        (["train", "digits", "--model", "vit_tinny_patch16_224"], "'vit_tiny_patch16_224'?"),
        (["train", "digits", "--resume"], "--resume needs --out"),
        (["train", "digits", "--resume", "--out", "absent"], "absent"),
        (["eval", "absent", "digits"], "absent does not exist"),
        (["predict", "absent", "absent.png"], "absent.png does not exist"),
        (["models", "resnet*"], "no model is called 'resnet*'"),
    ],
)
def test_a_mistake_is_one_line_and_two(
    vitkit_command, arguments: list[str], message: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = vitkit_command(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert message in done.err
    assert done.err.startswith("vitkit: ")
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", [0, 2])
def test_debug_keeps_the_traceback(vitkit_command, at: int) -> None:
    arguments = ["models", "absent"]
    arguments.insert(at, "--debug")
    with pytest.raises(vitkit.ConfigError, match="no model is called"):
        vitkit_command(*arguments)


def test_a_reader_that_has_seen_enough_is_no_error(finished: vitkit.Run, colours: Path) -> None:
    """`vitkit predict ... | head -1` in a real pipe, closed before most rows are written."""
    command = [sys.executable, "-m", "vitkit", "predict", str(finished.directory)]
    inputs = [str(path) for path in colours.rglob("*.png")] * 2
    with subprocess.Popen(
        [*command, *inputs, "--batch-size", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert errors == ""
    assert process.returncode not in (0, -9)
