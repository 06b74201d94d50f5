"""What all commands share: help, version, errors, a quick start."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vitkit
from vitkit.cli.main import LARGE_PAGES

COMMANDS = ("demo", "models", "inspect", "train", "eval", "predict", "doctor")
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
    assert (done.code, done.err) == (0, "")
    assert "Commands:" in done.out
    assert done.out == vitkit_command("--debug").out == vitkit_command("--help").out


def test_the_version(vitkit_command) -> None:
    assert vitkit_command("--version") == (0, f"vitkit {vitkit.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "no command 'trian', did you mean 'train'?; see vitkit --help"),
        (["xyz", "--help"], "no command 'xyz'; see vitkit --help"),
        (["--", "trian"], "no command 'trian', did you mean 'train'?; see vitkit --help"),
        (["--versoin"], "no option '--versoin', did you mean '--version'?; see vitkit --help"),
        (["train"], "Missing argument 'DATA'; see vitkit train --help"),
        (
            ["models", "--jsn"],
            "no option '--jsn', did you mean '--json'?; see vitkit models --help",
        ),
        (["train", "x", "--minutes", "1"], "'--minutes', but a setting: write minutes=VALUE; see"),
        (["train", "x", "--image-size", "64"], "a setting: write data.image_size=VALUE; see"),
        (["data", "check", "x", "--fold"], "'--folds'?; see vitkit data check --help"),
        (["models", "--xyz=3"], "no option '--xyz'; see vitkit models --help"),
        (
            ["train", "digits", "--out"],
            "Option '--out' requires an argument; see vitkit train --help",
        ),
        (["predict", "x", "y", "--topk", "0"], "'--topk': "),
        (["predict", "x", "y", "--topk", "a"], "'--topk': "),
        (["models", "a", "b"], "(b); see vitkit models --help"),
        (["eval", "x"], "Missing argument 'DATA'; see vitkit eval --help"),
    ],
)
def test_wrong_usage_is_one_line_and_two(
    vitkit_command, arguments: list[str], message: str
) -> None:
    done = vitkit_command(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("vitkit: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.err.endswith(" --help\n")


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
        (["inspect", "absent"], "'absent' is no checkpoint and no model"),
        (["models", "nothing*"], "no model is called 'nothing*'"),
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


@pytest.mark.parametrize("at", [0, 1, 2])
def test_debug_keeps_the_traceback(vitkit_command, at: int) -> None:
    arguments = ["models", "absent"]
    arguments.insert(at, "--debug")
    with pytest.raises(vitkit.ConfigError, match="no model is called"):
        vitkit_command(*arguments)


def test_debug_after_two_dashes_is_a_name(vitkit_command) -> None:
    done = vitkit_command("models", "--", "--debug")
    assert (done.code, done.err) == (
        2,
        "vitkit: no model is called '--debug'; `vitkit models` lists all\n",
    )


CIRCUMSTANCES = [
    (errno.ENOSPC, "No space left on device; make room there"),
    (errno.EACCES, "Permission denied; ask for the permission, or choose another place"),
    (errno.EROFS, "Read-only file system; choose a place that can be written to"),
    (errno.EIO, "Input/output error; check the disk or the network behind it"),
]


def failing(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """Let every command that loads a model meet an error of the system."""

    def load(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr("vitkit.classifier.load", load)


@pytest.mark.parametrize(("number", "message"), CIRCUMSTANCES)
def test_what_the_system_refuses_is_one_line(
    vitkit_command, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    failing(monkeypatch, OSError(number, os.strerror(number), "/some/where"))
    expected = (2, "", f"vitkit: /some/where: {message}\n")
    assert vitkit_command("eval", "run", "digits") == expected
    failing(monkeypatch, OSError(number, os.strerror(number)))
    assert vitkit_command("eval", "run", "digits") == (2, "", f"vitkit: {message}\n")
    with pytest.raises(OSError, match=os.strerror(number)):
        vitkit_command("eval", "run", "digits", "--debug")


def test_what_the_system_says_of_our_mistakes_keeps_its_traceback(
    vitkit_command, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, OSError(errno.EBADF, "Bad file descriptor"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        vitkit_command("eval", "run", "digits")


def test_a_name_too_long_is_one_line(vitkit_command) -> None:
    done = vitkit_command("eval", "x" * 300, "digits")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"vitkit: {'x' * 300}: File name too long; choose a shorter name")
    assert done.err.count("\n") == 1


def test_a_name_does_not_drive_the_terminal(vitkit_command) -> None:
    done = vitkit_command("eval", "a\x1b[2Jb", "digits")
    assert done.err.startswith("vitkit: a\\x1b[2Jb does not exist")


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


@pytest.mark.parametrize(("given", "used"), [(None, "1"), ("0", "0")])
def test_tensors_get_large_pages_unless_the_environment_says_no(
    vitkit_command, monkeypatch, given: str | None, used: str
) -> None:
    monkeypatch.delenv(LARGE_PAGES, raising=False)
    if given is not None:
        monkeypatch.setenv(LARGE_PAGES, given)
    vitkit_command("--version")
    assert os.environ[LARGE_PAGES] == used
