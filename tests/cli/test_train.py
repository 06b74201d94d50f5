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
    low, high = evaluation.intervals["top1"]
    assert done.out.splitlines() == [
        f"top-1 {evaluation.top1:.2%} ({low:.1%} to {high:.1%})  macro-F1 {evaluation.macro_f1:.3f}"
        "  of 12 images: test, as the run split it",
        f"weights  {tmp_path / 'run' / 'best'}",
        f"report   {tmp_path / 'run' / 'report.html'}",
    ]
    lines = done.err.splitlines()
    said = settings_by_origin(done.err)
    assert "--dry-run" in said["defaults"]  # which has them one by one
    given = said["command line"]
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


def test_a_dry_run_counts_the_images_of_shards(
    vitkit_command, colours: Path, settings: list[str], tmp_path: Path
) -> None:
    vitkit_command("data", "pack", colours, tmp_path / "shards")
    done = vitkit_command(
        "train", tmp_path / "shards", *settings, "--dry-run", "data.loading=sequential"
    )
    assert done.code == 0 and ": 60 images" in done.out


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

    monkeypatch.setattr("vitkit.training.reading.read_all", interrupt)
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


# Recipes, weights, teachers, the clock


def test_a_recipe_is_printed_with_what_goes_before_it(vitkit_command, colours: Path) -> None:
    given = ("--recipe", "deit", "--model", "resnet18", "epochs=7", "data.image_size=32")
    done = vitkit_command("train", colours, *given, "--dry-run")
    assert done.code == 0
    said = settings_by_origin(done.err)
    chosen = {"recipe=deit", "model.name=resnet18", "epochs=7", "data.image_size=[32,32]"}
    assert chosen == said["command line"]
    assert {"mix.cutmix=1.0", "augment.repeats=3", "batch_size=1024"} <= said["recipe deit"]
    assert not any(setting.startswith("model.") for setting in said["recipe deit"])
    lines = done.out.splitlines()
    assert {"recipe      deit", "length      7 epochs"} <= set(lines)
    note = "caution     batch_size=1024 makes an epoch of 43 images one step; try batch_size=5"
    assert note in lines


def test_the_model_is_chosen_for_the_data_and_two_lines_say_why(
    vitkit_command, colours: Path
) -> None:
    for given in ([], ["--model", "auto"]):
        done = vitkit_command("train", colours, *given, "minutes=2", "--dry-run", "--json")
        assert done.code == 0
        plan = json.loads(done.out)
        assert plan["recipe"] == "small"
        assert plan["minutes"] == 2.0
        assert done.err.splitlines()[:2] == plan["reasons"]
        assert plan["reasons"][0].startswith(
            f"model {plan['model']}, recipe small: 43 images to train"
        )
        assert {f"model.name={plan['model']}"} < settings_by_origin(done.err)["auto"]


def test_weights_bring_their_model_and_the_recipe_to_tune_them(
    vitkit_command, finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    given = ("--init", finished.directory, "epochs=1", "device=cpu", "precision=fp32")
    done = vitkit_command("train", colours, *given, "--out", tmp_path / "run")
    assert done.code == 0
    said = settings_by_origin(done.err)
    assert {"model.name=vit_tiny_patch16_224", "model.dim=16"} <= said["init"]
    assert "layer_decay=0.75" in said["recipe finetune"]
    notes = [line for line in done.err.splitlines() if line.startswith("note ")]
    assert str(finished.directory) in notes[0]
    assert vitkit.load(tmp_path / "run").classes == ["blue", "green", "red"]


def test_a_teacher_is_a_run(
    vitkit_command, finished: vitkit.Run, colours: Path, settings: list[str], tmp_path: Path
) -> None:
    given = (*settings, "epochs=1", "--teacher", finished.directory, "--out", tmp_path / "run")
    assert vitkit_command("train", colours, *given).code == 0
    assert resumed_settings(tmp_path / "run", ()).settings.distill.teacher == str(
        finished.directory
    )


def test_a_run_by_the_clock_shows_it(
    vitkit_command, colours: Path, settings: list[str], tmp_path: Path
) -> None:
    given = (*settings, "minutes=0.01", "--out", tmp_path / "run")
    done = vitkit_command("train", colours, *given)
    assert done.code == 0
    last = done.err.splitlines()[-1]
    assert last.startswith("epoch ") and "/" not in last.partition("img/s")[0]
    assert last.endswith("of 0:01")
    assert (
        "length      0.01 minutes"
        in vitkit_command("train", colours, *settings, "minutes=0.01", "--dry-run").out
    )


# A first day's mistakes


def one_class(folder: Path, colours: Path, run: Path) -> list[object]:
    shutil.copytree(colours / "red", folder / "red")
    return [folder]


def an_empty_class(folder: Path, colours: Path, run: Path) -> list[object]:
    shutil.copytree(colours, folder, dirs_exist_ok=True)
    (folder / "mauve").mkdir()
    return [folder]


def one_image_of_each_class(folder: Path, colours: Path, run: Path) -> list[object]:
    for name in ("red", "green", "blue"):
        (folder / name).mkdir()
        shutil.copy(colours / name / "00.png", folder / name)
    return [folder]


def a_teacher_with_other_classes(folder: Path, colours: Path, run: Path) -> list[object]:
    shutil.copytree(colours, folder, dirs_exist_ok=True)
    (folder / "red").rename(folder / "mauve")
    return [folder, "--teacher", run]


def an_image_without_a_class(folder: Path, colours: Path, run: Path) -> list[object]:
    shutil.copy(colours / "red" / "00.png", folder)
    return [folder]


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("arguments", "value", "remedy"),
    [
        (lambda f, c, r: [f / "absent"], "absent does not exist", "check the path"),
        (lambda f, c, r: [f], "holds no image", "give a folder with one folder of images per"),
        (one_class, "has one class only, 'red'", "a classifier needs at least two to learn"),
        (an_empty_class, "mauve/ holds no image", "fill this folder or remove it"),
        (one_image_of_each_class, "has one image of each class", "; add images, or set"),
        (an_image_without_a_class, "holds 1 images but no class folders", "put them into one"),
        (
            a_teacher_with_other_classes,
            "the teacher does not know 'mauve'",
            "train the teacher on the same classes",
        ),
        (
            lambda f, c, r: [c, "--teacher", f / "absent"],
            "absent does not exist",
            "give a run, a checkpoint or a weights file",
        ),
        (
            lambda f, c, r: [c, "--init", f / "absent"],
            "absent does not exist",
            "give a run, a checkpoint or a weights file",
        ),
        (
            lambda f, c, r: [c, "--init", c],
            "holds no config.json",
            "give a run or checkpoint directory, or a weights file",
        ),
        (
            lambda f, c, r: [c, "--init", r, "--model", "resnet18"],
            "is a vit_tiny_patch16_224, which is no kind of resnet18",
            "leave the model out",
        ),
        (
            lambda f, c, r: [c, "--recipe", "finetun"],
            "no recipe is called 'finetun'",
            "did you mean 'finetune'?; choose bigvision-s16, cct-cifar",
        ),
        (
            lambda f, c, r: [c, "--recipe", f / "mine.yaml"],
            "mine.yaml does not exist",
            "the recipe",
        ),
        (lambda f, c, r: [c, "--model", "resnet19"], "'resnet19'", "did you mean 'resnet18'"),
        (lambda f, c, r: [c, "minutes=0"], "minutes=0", "should be greater than 0"),
        (lambda f, c, r: [c, "minutes=soon"], "minutes='soon'", "should be a valid number"),
        (lambda f, c, r: [c, "epoch=3"], "'epoch'", "did you mean 'epochs'?"),
        (
            lambda f, c, r: [c, "--resume"],
            "--resume needs --out",
            "the directory of the run to go on with",
        ),
        (
            lambda f, c, r: [c, "--resume", "--out", f],
            "holds no run",
            "leave --resume out to start one",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(
    vitkit_command,
    finished: vitkit.Run,
    colours: Path,
    tmp_path: Path,
    monkeypatch,
    arguments: Any,
    value: str,
    remedy: str,
    more: list[str],
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    made = arguments(tmp_path / "data", colours, finished.directory)
    done = vitkit_command("train", *made, *more)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1 and done.err.startswith("vitkit: ")
    assert value in done.err
    assert remedy in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["lr=0.5"], "lr=0.5 differs from the run, which has lr=0.01"),
        (["minutes=3"], "minutes=3.0 differs from the run, which has minutes=null"),
        (["--recipe", "deit"], "recipe=deit differs from the run, which has recipe=null"),
        (["--model", "resnet18"], "model.name=resnet18 differs from the run"),
        (["--init", "/ckpt"], "init=/ckpt differs from the run, which has init=null"),
        (["--teacher", "/ckpt"], "distill.teacher=/ckpt differs from the run, which has distill."),
    ],
)
def test_resuming_with_a_change_is_one_line(
    vitkit_command, finished: vitkit.Run, colours: Path, changed: list[str], said: str
) -> None:
    done = vitkit_command("train", colours, "--resume", "--out", finished.directory, *changed)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "leave it out to resume," in done.err and "or start a new run" in done.err
    assert done.err.count("\n") == 1


def test_resuming_with_the_same_options_is_none(
    vitkit_command, finished: vitkit.Run, colours: Path, settings: list[str], tmp_path: Path
) -> None:
    shutil.copytree(finished.directory, tmp_path / "run")
    resume = ("train", colours, *settings, "--resume", "--out", tmp_path / "run")
    assert vitkit_command(*resume, "--recipe", "none", "--model", "auto").code == 0
