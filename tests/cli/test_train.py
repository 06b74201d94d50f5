"""`vitkit train`: what it prints, its exit codes, interrupting and going on."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import vitkit
from vitkit.cli.screen import Screen
from vitkit.cli.train import interruptible
from vitkit.training import loop
from vitkit.training import run as training
from vitkit.training.directory import resumed_settings


@pytest.fixture
def settings(tiny: dict[str, Any]) -> list[str]:
    """Those of `tiny` as they are typed."""
    return [f"{key}={value}" for key, value in tiny.items()]


def settings_by_origin(text: str) -> dict[str, set[str]]:
    """What was printed of settings; a line that begins with spaces goes on with the one above."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        title, _, rest = line.partition("  ")
        if title:
            current = found.setdefault(title, set())
        current.update(rest.split())
    return found


def test_a_folder_becomes_a_run(
    vitkit_command, finished: vitkit.Run, colours: Path, settings: list[str], tmp_path: Path
) -> None:
    done = vitkit_command("train", colours, *settings, "--out", tmp_path / "run")
    assert done.code == 0
    evaluation = vitkit.Run(tmp_path / "run").evaluation
    assert evaluation == finished.evaluation  # as from Python
    assert evaluation is not None
    assert done.out.splitlines() == [
        f"top-1 {evaluation.top1:.2%}  top-5 100.00%  macro-F1 {evaluation.macro_f1:.3f}"
        "  of 12 images: test, as the run split it",
        f"weights  {tmp_path / 'run' / 'best'}",
        f"report   {tmp_path / 'run' / 'report.html'}",
    ]
    lines = done.err.splitlines()
    given = settings_by_origin(done.err)["command line"]
    assert {"epochs=4", "data.image_size=[8,8]", "model.name=vit_tiny_patch16_224"} <= given
    assert "images       train 43  val 5  test 12" in lines
    assert [line.split()[:2] for line in lines[-4:]] == [["epoch", f"{n}/4"] for n in (1, 2, 3, 4)]
    assert max(map(len, lines)) <= 100
    assert "" not in lines


def test_the_model_option_is_a_setting(vitkit_command, tmp_path: Path) -> None:
    done = vitkit_command("train", "digits", "--model", "vit_small_patch16_224", "--dry-run")
    assert done.code == 0
    assert "model.name=vit_small_patch16_224" in settings_by_origin(done.err)["command line"]
    assert "vit_small_patch16_224, 21,669,514 parameters" in done.out  # 10 classes, not 1000


def test_what_the_run_makes_of_open_settings_is_printed(vitkit_command, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("vitkit.runtime.device.gains_from_bf16", lambda device: True)
    monkeypatch.setenv("COLUMNS", "10000")
    name = "vit_tiny_patch16_224"
    done = vitkit_command("train", "digits", "--model", name, "--dry-run", "model.depth=3")
    said = settings_by_origin(done.err)
    assert "model.depth=3" in said["command line"]
    assert {"precision=bf16", "device=cpu"} <= said["this machine"]
    assert said["model"] == {"data.image_size=[224,224]"}
    assert "optimizer=muon" in said["recipe small"]
    assert {"model.num_heads=3", "model.pool=cls", "model.drop_path=0.0"} <= said["defaults"]


def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    vitkit_command, colours: Path, settings: list[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = vitkit_command("train", colours, *settings, "--dry-run")
    assert done.code == 0
    assert "epochs=4" in settings_by_origin(done.err)["command line"]
    for line in (
        f"data        {colours}: 60 images",
        "classes     3: blue, green, red",
        "input       8x8 pixels, 3 channels",
        "device      cpu",
        "length      4 epochs",
    ):
        assert line in done.out.splitlines()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("load", "threads", "said"), [(9, "null", 1), (9, "1", 0), (0.1, "null", 0)]
)
def test_other_work_on_the_machine_is_spoken_of(
    vitkit_command, colours, settings, tmp_path, monkeypatch, load, threads, said
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (float(load), 0.0, 0.0))
    monkeypatch.setattr("vitkit.data.loader.default_workers", lambda: 2)
    out = ("--out", tmp_path / "run", "epochs=1", f"threads={threads}")
    done = vitkit_command("train", colours, *settings, *out)
    assert done.code == 0
    assert done.err.count("other work keeps 9.0 of 2 cores busy; threads=1 may be faster") == said
    # A mistake stays one line.
    assert vitkit_command("train", tmp_path / "absent").err.count("\n") == 1


def test_a_dry_run_counts_the_splits_of_the_data(
    vitkit_command, colours: Path, settings: list[str], tmp_path: Path
) -> None:
    for name in ("train", "test"):
        shutil.copytree(colours, tmp_path / name)
    (tmp_path / "test" / "red" / "00.png").unlink()
    done = vitkit_command("train", tmp_path, *settings, "--dry-run")
    assert done.code == 0
    assert "splits      test 59, train 60" in done.out.splitlines()
    plan = json.loads(vitkit_command("train", tmp_path, *settings, "--dry-run", "--json").out)
    assert plan["splits"] == {"test": 59, "train": 60}
    assert (plan["images"], plan["epochs"], plan["image_size"]) == (119, 4, [8, 8])
    assert plan["classes"] == ["blue", "green", "red"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_dry_run_finds_an_out_that_cannot_be_used(
    vitkit_command, finished: vitkit.Run, colours: Path, tmp_path: Path, resume: bool
) -> None:
    out = tmp_path if resume else finished.directory
    before = sorted(out.rglob("*"))
    done = vitkit_command("train", colours, "--dry-run", "--out", out, *["--resume"] * resume)
    assert (done.code, done.out) == (2, "")
    assert ("holds no run" if resume else "exists already; choose another --out") in done.err
    assert done.err.count("\n") == 1
    assert sorted(out.rglob("*")) == before


def test_a_dry_run_does_not_make_its_out(vitkit_command, colours: Path, tmp_path: Path) -> None:
    assert vitkit_command("train", colours, "--dry-run", "--out", tmp_path / "new").code == 0
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_is_no_utf8_is_found_at_once(vitkit_command, tmp_path: Path) -> None:
    out = os.fsencode(tmp_path) + b"/r\xe9n"
    for more in ([], ["--dry-run"]):
        done = vitkit_command("train", "digits", "--out", os.fsdecode(out), *more)
        assert (done.code, done.out) == (2, "")
        said = f"vitkit: {tmp_path}/r\\udce9n is no UTF-8, which weights files need"
        assert done.err == f"{said}; choose another --out\n"
    assert not list(tmp_path.iterdir())


def test_json_is_the_result_and_nothing_else(
    vitkit_command, finished: vitkit.Run, colours: Path, settings: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = vitkit_command("train", colours, *settings, "--out", out, "--json")
    assert done.code == 0
    assert finished.evaluation is not None
    scores = json.loads(json.dumps(finished.evaluation.to_json()))
    assert json.loads(done.out) == {"directory": str(out), **scores}


def test_a_dry_run_finds_what_does_not_fit(vitkit_command, colours: Path) -> None:
    name = "vit_tiny_patch16_224"
    wrong = "data.image_size=225"
    done = vitkit_command("train", colours, "--model", name, wrong, "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert "image_size=225 is not a multiple of patch_size=16; try 224 or 240" in done.err
    assert done.err.count("\n") == 1


def test_an_existing_run_is_not_overwritten(
    vitkit_command, finished: vitkit.Run, colours: Path
) -> None:
    done = vitkit_command("train", colours, "--out", finished.directory)
    assert done.code == 2
    assert "exists already; choose another --out, or go on with --resume" in done.err
    assert done.err.count("\n") == 1


def test_resuming_with_another_setting_is_refused(
    vitkit_command, finished: vitkit.Run, colours: Path
) -> None:
    resume = ("train", colours, "--out", finished.directory, "--resume")
    done = vitkit_command(*resume, "epochs=9")
    assert done.code == 2
    assert "epochs=9 differs from the run, which has epochs=4" in done.err


def test_a_broken_image_is_listed(
    vitkit_command, colours: Path, settings: list[str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(colours, data)
    (data / "red" / "07.png").write_bytes(b"not an image")
    out = ("--out", tmp_path / "run")
    done = vitkit_command("train", data, *settings, *out)
    assert done.code == 2
    assert "1 of 60 images cannot be read, more than data.max_unreadable=0.01" in done.err
    assert "red/07.png: " in done.err
    done = vitkit_command("train", data, *settings, *out, "data.max_unreadable=0.05", "epochs=1")
    assert done.code == 1  # done in part
    assert done.out.startswith("top-1 ")
    assert "unreadable 1" in done.err
    assert "left out     red/07.png: " in done.err
    listed = tmp_path / "run" / "unreadable.csv"
    last = f"vitkit: unreadable images left out: 1, listed in {listed}"
    assert done.err.splitlines()[-1] == last
    assert "red/07.png," in listed.read_text()


def test_an_interrupt_saves_and_resuming_finishes(
    vitkit_command, colours: Path, settings: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run with spaces"
    long = [*settings, "epochs=100000"]
    with subprocess.Popen(
        [sys.executable, "-m", "vitkit", "train", str(colours), *long, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "100"},
    ) as process:
        assert process.stderr is not None
        errors = read_until(process.stderr.fileno(), b"epoch 3/")
        process.send_signal(signal.SIGINT)
        rest, more = process.communicate(timeout=60)
    errors += more
    assert process.returncode == 130
    assert rest == b""
    assert b"stopping after this step" in errors
    assert f"vitkit train {colours} --out '{out}' --resume" in errors.decode()
    assert b"Traceback" not in errors
    assert (out / "last" / "state.pt").is_file()
    assert not (out / "evaluation.json").exists()
    done_epochs = len(vitkit.Run(out).metrics)
    assert done_epochs >= 3

    # The same run, made shorter: it has only a little further to go.
    saved = out / "config.yaml"
    saved.write_text(saved.read_text().replace("100000", str(done_epochs + 2)))
    assert resumed_settings(out, ()).settings.epochs == done_epochs + 2
    done = vitkit_command("train", colours, "--out", out, "--resume")
    assert done.code == 0
    assert [row["epoch"] for row in vitkit.Run(out).metrics] == list(range(1, done_epochs + 3))
    assert (out / "report.html").is_file()
    assert f"epochs={done_epochs + 2}" in settings_by_origin(done.err)["saved"]


def read_until(descriptor: int, wanted: bytes) -> bytes:
    """Everything up to and with `wanted`, within a minute."""
    seen, limit = b"", time.monotonic() + 60
    while wanted not in seen:
        ready, _, _ = select.select([descriptor], [], [], limit - time.monotonic())
        chunk = os.read(descriptor, 65536) if ready else b""
        assert chunk, f"{wanted!r} did not come: {seen.decode()}"
        seen += chunk
    return seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible(Screen()) as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_after_the_last_step_a_signal_says_what_is_left(
    vitkit_command, colours: Path, settings: list[str], tmp_path: Path, monkeypatch
) -> None:
    """The first changes nothing any more, the second leaves the scores to a resumed run."""
    load, signals = training.load, 1

    def interrupted(*arguments: Any, **more: Any) -> Any:
        for _ in range(signals):
            signal.raise_signal(signal.SIGINT)
        return load(*arguments, **more)

    monkeypatch.setattr(training, "load", interrupted)
    command = ("train", colours, *settings, "epochs=1", "--out")
    done = vitkit_command(*command, tmp_path / "one")
    assert done.code == 0
    said = "training is over and saved; Ctrl-C again stops without the report"
    assert done.err.splitlines()[-1] == said
    assert "stopping after this step" not in done.err
    assert (tmp_path / "one" / "report.html").is_file()

    signals = 2
    done = vitkit_command(*command, tmp_path / "two")
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-2:] == [said, "interrupted"]
    assert not (tmp_path / "two" / "evaluation.json").exists()
    signals = 0
    assert vitkit_command("train", colours, "--resume", "--out", tmp_path / "two").code == 0
    assert (tmp_path / "two" / "report.html").is_file()


def test_in_the_last_epoch_a_signal_stops_like_in_any(
    vitkit_command, colours: Path, settings: list[str], tmp_path: Path, monkeypatch
) -> None:
    validate = loop.validate

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return validate(*arguments)

    monkeypatch.setattr(loop, "validate", interrupted)
    out = ("--out", tmp_path / "run")
    done = vitkit_command("train", colours, *settings, "epochs=1", *out)
    assert done.code == 130
    assert "stopping after this step" in done.err
    assert done.err.splitlines()[-2] == "interrupted and saved; to go on:"
    assert not (tmp_path / "run" / "evaluation.json").exists()
    assert vitkit_command("train", colours, "--resume", *out).code == 0
    assert len(vitkit.Run(tmp_path / "run").metrics) == 1


def test_before_the_first_step_one_signal_ends() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible(Screen()):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_while_reading_leaves_nothing(
    vitkit_command, colours: Path, settings: list[str], tmp_path: Path, monkeypatch
) -> None:
    def interrupt(*arguments: Any, **more: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("vitkit.training.dataset.read_all", interrupt)
    done = vitkit_command("train", colours, *settings, "--out", tmp_path / "run")
    assert done.code == 130
    assert done.err == "interrupted\n"
    assert not (tmp_path / "run").exists()


def test_a_defect_of_ours_keeps_its_traceback(
    vitkit_command, colours: Path, settings: list[str], tmp_path: Path, monkeypatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("vitkit.training.run.evaluate_run", fail)
    with pytest.raises(ZeroDivisionError, match="ours"):
        vitkit_command("train", colours, *settings, "epochs=1", "--out", tmp_path / "run")


def test_the_result_is_there_as_data(finished: vitkit.Run) -> None:
    scores = json.loads((finished.directory / "evaluation.json").read_text())
    assert 0 <= scores["top1"] <= 1
