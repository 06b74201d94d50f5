"""Whole runs: what is in their directory, how they go on, what they refuse."""

import csv
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import vitkit
from vitkit.data.split import load_split
from vitkit.errors import CheckpointError, ConfigError, DataError
from vitkit.progress import LikelyToFail, Progress
from vitkit.training.config import resolve
from vitkit.training.directory import keep_metrics, resumed_settings
from vitkit.training.losses import loss_of


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def digest(folder: Path) -> dict[str, str]:
    """What lies below a folder, files by their content."""
    return {
        str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "report.html"  # it says where settings came from
    }


def stopping_after(steps: int) -> Callable[[], bool]:
    asked: Iterator[int] = iter(range(1, 10**6))
    return lambda: next(asked) >= steps


# What a finished run leaves


def test_the_directory_holds_everything_and_nothing_else(finished: vitkit.Run) -> None:
    names = {path.name for path in finished.directory.iterdir()}
    assert names == {
        "config.yaml",
        "contents.csv",
        "env.json",
        "metrics.jsonl",
        "split.csv",
        "last",
        "previous",
        "best",
        "evaluation.json",
        "report.html",
    }
    predicting = {"config.json", "model.safetensors", "manifest.json"}
    assert {path.name for path in (finished.directory / "best").iterdir()} == predicting
    for name in ("last", "previous"):
        inside = {path.name for path in (finished.directory / name).iterdir()}
        assert inside == predicting | {"state.pt"}


def test_every_file_is_readable_by_others(finished: vitkit.Run) -> None:
    for path in finished.directory.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044, path


def test_the_configuration_resolves_to_itself(finished: vitkit.Run, tiny: dict[str, Any]) -> None:
    saved = yaml.safe_load((finished.directory / "config.yaml").read_text())
    read = {"data.loading": "memory"}  # which was settled by what there is
    assert resolve(saved=saved).settings == resolve({**tiny, **read}).settings


def test_the_environment_is_written(finished: vitkit.Run, colours: Path) -> None:
    environment = json.loads((finished.directory / "env.json").read_text())
    assert environment["data"] == str(colours)
    assert environment["vitkit"] == vitkit.__version__
    assert environment["torch"] == torch.__version__
    assert environment["device"].startswith("cpu")
    assert environment["precision"] == "fp32"


def test_metrics_are_one_row_an_epoch(finished: vitkit.Run) -> None:
    assert [row["epoch"] for row in finished.metrics] == [1, 2, 3, 4]
    assert [row["step"] for row in finished.metrics] == [3, 6, 9, 12]  # 43 images by 16
    assert set(finished.metrics[0]) == {
        "epoch",
        "step",
        "seconds",
        "lr",
        "train_loss",
        "train_top1",
        "val_loss",
        "val_top1",
        "images_per_second",
        "bad_steps",
    }


def split_of(directory: Path) -> dict[str, tuple[str, str]]:
    with open(directory / "split.csv", newline="") as file:
        return {row["file_name"]: (row["label"], row["split"]) for row in csv.DictReader(file)}


def test_the_split_holds_every_image_and_class(finished: vitkit.Run, colours: Path) -> None:
    rows = split_of(finished.directory)
    assert set(rows) == {str(path.relative_to(colours)) for path in colours.rglob("*.png")}
    assert all(name.startswith(label) for name, (label, _) in rows.items())
    counts = {name: sum(s == name for _, s in rows.values()) for name in ("train", "val", "test")}
    assert counts == {"train": 43, "val": 5, "test": 12}  # a fifth of 60, then a tenth of 48
    assert {label for label, split in rows.values() if split == "test"} == {"blue", "green", "red"}


def test_it_can_be_used_at_once(finished: vitkit.Run, colours: Path) -> None:
    classifier = finished.load()
    assert classifier.classes == ["blue", "green", "red"]
    assert classifier.predict(colours / "red" / "00.png")[0].label == "red"
    evaluation = finished.evaluation
    assert evaluation is not None
    assert evaluation.images == 12
    assert evaluation.top1 >= 0.9  # colours are easy


def test_best_is_the_epoch_with_the_highest_validation_score(
    colours: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.6, 0.6, 0.4])
    monkeypatch.setattr("vitkit.training.loop.validate", lambda learner, val: (1.0, next(scores)))
    seen: list[bytes] = []

    def listen(progress: Progress) -> None:
        if progress.final and progress.phase.startswith("epoch"):
            seen.append(weights(tmp_path / "run" / "last"))

    every = {"checkpoint.every": "1 epoch"}
    vitkit.train(colours, out=tmp_path / "run", listen=listen, **tiny, **every)
    assert len(set(seen)) == 4
    assert weights(tmp_path / "run" / "best") == seen[2]  # of equal ones the later
    assert weights(tmp_path / "run" / "last") == seen[3]


def test_nothing_is_written_elsewhere(
    colours: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    before = digest(colours)
    run = vitkit.train(colours, **{**tiny, "epochs": 1})
    assert run.directory == Path("runs", "colours-vit_tiny_patch16_224")
    assert {path.name for path in work.iterdir()} == {"runs"}
    assert [path.name for path in (work / "runs").iterdir()] == [run.directory.name]
    assert not list(home.rglob("*"))
    assert digest(colours) == before


def test_two_runs_from_one_seed_are_the_same(
    finished: vitkit.Run, colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(1234)
    again = vitkit.train(colours, out=tmp_path / "again", **tiny)
    assert weights(again.directory / "last") == weights(finished.directory / "last")
    other = vitkit.train(colours, out=tmp_path / "other", **tiny, seed=1)
    assert weights(other.directory / "last") != weights(finished.directory / "last")


def test_the_callers_random_numbers_are_untouched(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    vitkit.train(colours, out=tmp_path / "run", **{**tiny, "epochs": 1})
    assert torch.equal(torch.get_rng_state(), before)


# Going on


ROUGH = {  # everything that draws random numbers
    "augment.mirror": True,
    "augment.shift": 0.25,
    "model.dropout": 0.2,
    "model.attention_dropout": 0.1,
    "model.drop_path": 0.3,
    "model.depth": 2,
}


@pytest.mark.parametrize("ema", [0.9, 0])
def test_a_run_stopped_twice_ends_as_if_it_had_not_been(
    colours: Path, tiny: dict[str, Any], tmp_path: Path, ema: float
) -> None:
    settings = {**tiny, **ROUGH, "ema": ema}
    whole = vitkit.train(colours, out=tmp_path / "whole", **settings)
    torch.manual_seed(99)
    out = tmp_path / "parts"
    assert not vitkit.train(colours, out=out, stop=stopping_after(2), **settings).finished
    assert not (out / "evaluation.json").exists()
    torch.manual_seed(77)  # a fresh process has another state
    assert not vitkit.train(colours, out=out, resume=True, stop=stopping_after(5)).finished
    torch.manual_seed(55)
    parts = vitkit.train(colours, out=out, resume=True)
    assert parts.finished
    assert digest(parts.directory / "best") == digest(whole.directory / "best")
    assert weights(parts.directory / "last") == weights(whole.directory / "last")
    assert parts.evaluation == whole.evaluation
    assert timeless(parts.metrics) == timeless(whole.metrics)


CNNS: dict[str, dict[str, Any]] = {
    "convnet_3_32": {"model.dims": [4, 8]},
    "resnet18": {"model.dim": 8, "model.depths": [1, 1, 1, 1], "model.drop_path": 0.2},
}


@pytest.mark.parametrize(
    ("name", "ema"), [("convnet_3_32", 0.9), ("resnet18", 0.9), ("resnet18", 0)]
)
def test_a_stopped_cnn_ends_as_if_it_had_not_been(
    colours: Path, tmp_path: Path, name: str, ema: float
) -> None:
    """Running statistics go on where they were, in the weights and in their average."""
    settings = {"data.image_size": 32, "epochs": 2, "batch_size": 16, "ema": ema, **CNNS[name]}
    settings |= {"lr": 1e-2, "precision": "fp32", "device": "cpu"}
    whole = vitkit.train(colours, model=name, out=tmp_path / "whole", **settings)
    out = tmp_path / "parts"
    vitkit.train(colours, model=name, out=out, stop=stopping_after(2), **settings)
    parts = vitkit.train(colours, out=out, resume=True)
    assert parts.finished
    assert digest(out / "best") == digest(whole.directory / "best")
    assert weights(out / "last") == weights(whole.directory / "last")
    assert parts.evaluation == whole.evaluation
    assert timeless(parts.metrics) == timeless(whole.metrics)
    assert parts.load().model.config == whole.load().model.config


def test_a_batch_of_one_cell_is_refused_in_one_line(colours: Path, tmp_path: Path) -> None:
    settings = {"data.image_size": 32, "epochs": 1, "batch_size": 1, **CNNS["resnet18"]}
    with pytest.raises(ConfigError, match="batch norm cannot learn from one image") as caught:
        vitkit.train(colours, model="resnet18", out=tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("seconds", "images_per_second")
    return [{key: row[key] for key in row if key not in times} for row in rows]


@pytest.mark.parametrize("lost", ["row", "half a row", "nothing"])
def test_a_run_that_died_before_its_first_checkpoint_begins_again(
    finished: vitkit.Run, colours: Path, tmp_path: Path, lost: str
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.yaml", "contents.csv", "env.json", "split.csv"):
        shutil.copy(finished.directory / name, out)
    first = (finished.directory / "metrics.jsonl").read_text().splitlines(keepends=True)[0]
    (out / "metrics.jsonl").write_text({"row": first, "half a row": first[:40]}.get(lost, ""))
    run = vitkit.train(colours, out=out, resume=True)
    assert timeless(run.metrics) == timeless(finished.metrics)
    assert weights(out / "last") == weights(finished.directory / "last")


def test_a_finished_run_can_be_finished_again(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.directory, out)
    (out / "evaluation.json").unlink()
    run = vitkit.train(colours, out=out, resume=True)
    assert digest(out) == digest(finished.directory)
    assert run.finished


def test_a_crash_between_the_renames_is_mended_by_resuming(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.directory, out)
    (out / "last").rename(out / ".last.new")
    (out / "best").rename(out / ".best.old")
    vitkit.train(colours, out=out, resume=True)
    assert digest(out) == digest(finished.directory)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def resumed(out: Path, data: Path) -> list[str]:
    """Go on with a run; the notes that it gives."""
    heard: list[Progress] = []
    vitkit.train(data, out=out, resume=True, listen=heard.append)
    return [progress.figures[""] for progress in heard if progress.phase == "note"]


@pytest.mark.parametrize("name", ["state.pt", "model.safetensors", "config.json"])
def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(
    finished: vitkit.Run, colours: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.directory, out)
    flip_a_bit(out / "last" / name)
    said = f"last/ is damaged ({name} is not what was written): going on from"
    assert any(note.startswith(said) for note in resumed(out, colours))
    for which in ("last", "best"):
        assert weights(out / which) == weights(finished.directory / which)
    assert len(vitkit.Run(out).metrics) == len(finished.metrics)


def test_a_damaged_best_is_spoken_of(finished: vitkit.Run, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.directory, out)
    shutil.rmtree(out / "last")  # so that there is an epoch left to do
    flip_a_bit(out / "best" / "model.safetensors")
    notes = "; ".join(resumed(out, colours))
    assert "last/ is gone" in notes and "best/ is damaged" in notes
    vitkit.load(out)


def test_a_run_whose_checkpoints_are_all_damaged_is_one_line(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.directory, out)
    for name in ("last", "previous"):
        flip_a_bit(out / name / "state.pt")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint that is whole \(last/: .*previous/: "
    ):
        vitkit.train(colours, out=out, resume=True)


def test_rows_of_epochs_to_come_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3}\n{"step": 6}\n{"step": 9}\n{"st')
    keep_metrics(path, 6)
    assert path.read_text() == '{"step": 3}\n{"step": 6}\n'
    keep_metrics(tmp_path / "absent", 6)
    path.write_text('{"step": 1}\n{"stxp": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl is damaged"):
        keep_metrics(path, 6)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["epochs=9"], "epochs=9 differs from the run, which has epochs=4"),
        (["lr=0.01", "seed=3"], "seed=3 differs from the run, which has seed=0"),
        (["data.image_size=16"], r"data.image_size=\[16,16\] differs from the run, which has"),
        (["model.qk_norm=true"], "differs from the run, which has model.qk_norm=false"),
        (["model.name=vit_base_patch16_224"], "which has model.name=vit_tiny_patch16_224"),
        (["model.name=resnet18"], "which has model.name=vit_tiny_patch16_224"),
    ],
)
def test_other_settings_do_not_resume(
    finished: vitkit.Run, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resumed_settings(finished.directory, overrides)
    assert "\n" not in str(caught.value)


def test_the_same_settings_resume(finished: vitkit.Run, tiny: dict[str, Any]) -> None:
    resumed = resumed_settings(finished.directory, {**tiny, "data.loading": "auto"}).settings
    assert resumed == resolve({**tiny, "data.loading": "memory"}).settings


def test_what_leaves_the_result_alone_may_change(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert not vitkit.train(colours, out=out, stop=stopping_after(5), **tiny).finished
    before = json.loads((out / "env.json").read_text())
    threads = torch.get_num_threads() + 1
    free = {"threads": threads, "data.workers": 1, "data.memory_gb": 1, "device": "cpu"}
    assert not vitkit.train(colours, out=out, resume=True, stop=stopping_after(2), **free).finished
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["threads"] == threads
    assert (saved["data"]["workers"], saved["data"]["memory_gb"]) == (1, 1)
    run = vitkit.train(colours, out=out, resume=True)  # as it was last
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3, 4]
    environment = json.loads((out / "env.json").read_text())
    (resumed,) = environment.pop("resumed")
    assert environment == before
    assert resumed.keys() == {"started", "threads"}
    assert resumed["threads"] == str(threads)
    assert f"{resumed['started']}" in (run.directory / "report.html").read_text()
    origins = {row.key: row.origin for row in resumed_settings(out, {"device": "cpu"}).rows()}
    assert (origins["threads"], origins["device"]) == ("saved", "command line")


@pytest.mark.parametrize("content", [None, "", "[]"])
def test_a_damaged_environment_does_not_resume(
    finished: vitkit.Run, colours: Path, tmp_path: Path, content: str | None
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.directory, out)
    (out / "env.json").unlink()
    if content is not None:
        (out / "env.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"env.json (cannot be read|holds no env)") as caught:
        vitkit.train(colours, out=out, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "- 1\n", "a: [", b"\xff\xfe\x00"])
def test_a_damaged_configuration_does_not_resume(tmp_path: Path, content: Any) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises(CheckpointError) as caught:
        resumed_settings(tmp_path, ())
    assert "\n" not in str(caught.value)


def test_changed_data_does_not_resume(finished: vitkit.Run, colours: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "run", tmp_path / "colours"
    shutil.copytree(finished.directory, out)
    shutil.copytree(colours, data)
    (data / "red" / "00.png").rename(data / "red" / "zz.png")
    before = digest(out)
    with pytest.raises(DataError, match=r"red/zz.png' is not in the saved split"):
        vitkit.train(data, out=out, resume=True)
    assert digest(out) == before


def test_an_existing_directory_is_refused(finished: vitkit.Run, colours: Path) -> None:
    before = digest(finished.directory)
    with pytest.raises(CheckpointError, match="exists already; choose another --out"):
        vitkit.train(colours, out=finished.directory)
    assert digest(finished.directory) == before


def test_a_file_in_the_way_is_refused(colours: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(CheckpointError, match=r"cannot be made \(File exists\)"):
        vitkit.train(colours, out=tmp_path / "run")


def test_there_must_be_something_to_resume(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run"):
        vitkit.train(colours, out=tmp_path / "absent", resume=True)
    with pytest.raises(ConfigError, match="needs out"):
        vitkit.train(colours, resume=True)
    assert not list(tmp_path.iterdir())


def test_the_number_of_threads_is_put_back(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    vitkit.train(colours, out=tmp_path / "run", **{**tiny, "epochs": 1, "threads": before + 1})
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert environment["threads"] == str(before + 1)
    assert torch.get_num_threads() == before


def test_kernels_repeat_themselves_where_that_is_wanted(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    seen: list[bool] = []

    def listen(progress: Progress) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())

    vitkit.train(colours, out=tmp_path / "run", listen=listen, deterministic=True, **tiny)
    assert seen[-1] and not torch.are_deterministic_algorithms_enabled()


def test_a_full_disk_keeps_the_last_checkpoint(
    colours: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    vitkit.train(colours, out=out, stop=stopping_after(5), **tiny)
    before = digest(out / "last")

    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        vitkit.train(colours, out=out, resume=True)
    monkeypatch.undo()
    assert digest(out / "last") == before
    assert vitkit.train(colours, out=out, resume=True).finished


# Changes, where they are wanted


def test_a_run_goes_on_under_other_settings_if_told(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.directory, out)
    with pytest.raises(ConfigError, match="epochs=5 differs .*--allow-changes"):
        vitkit.train(colours, out=out, resume=True, epochs=5)
    run = vitkit.train(colours, out=out, resume=True, allow_changes=True, epochs=5)
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3, 4, 5]
    assert resumed_settings(out, {}).settings.epochs == 5
    changed = resumed_settings(out, {"epochs": 6, "lr": 0.5}, allow_changes=True)
    assert changed.reasons[0] == "epochs=6 from here on, where the run had epochs=5"
    assert len(changed.reasons) == 2
    with pytest.raises(ConfigError, match="which has model.qk_norm=false; leave it out") as caught:
        resumed_settings(out, {"model.qk_norm": True}, allow_changes=True)
    assert "--allow-changes" not in str(caught.value)
    with pytest.raises(ConfigError, match="optimizer=sgd differs from the run"):
        resumed_settings(out, {"optimizer": "sgd"}, allow_changes=True)


def test_a_run_goes_on_with_other_images_if_told(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    """One image is gone, one has another content, one is new and one a copy of a held-out one."""
    out, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(finished.directory, out)
    shutil.copytree(colours, data)
    before = {row.name: row.split for row in load_split(out / "split.csv")}
    trained = [name for name, split in before.items() if split == "train"]
    tested = [name for name, split in before.items() if split == "test"]
    (data / trained[0]).unlink()
    Image.new("RGB", (20, 20), "white").save(data / tested[0])
    folder = (data / tested[1]).parent
    Image.new("RGB", (20, 20), "black").save(folder / "new.png")
    shutil.copy(data / tested[1], folder / "copy.png")
    with pytest.raises(DataError, match="changed since|not in the saved split"):
        vitkit.train(data, out=out, resume=True)
    vitkit.train(data, out=out, resume=True, allow_changes=True)
    after = {row.name: row.split for row in load_split(out / "split.csv")}
    new, copy = (str((folder / name).relative_to(data)) for name in ("new.png", "copy.png"))
    assert trained[0] not in after
    assert (after[tested[0]], after[new], after[copy]) == ("train", "train", "test")
    rest = before.keys() - {trained[0], tested[0]}
    assert all(after[name] == before[name] for name in rest)
    vitkit.train(data, out=out, resume=True)  # what it has now is what it resumes with


def test_a_run_that_diverged_goes_on_from_its_last_good_weights(
    colours: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "run", iter(range(100))

    def spoiled(*arguments: Any) -> torch.Tensor:
        return loss_of(*arguments) * (torch.nan if next(calls) >= 3 else 1)

    with monkeypatch.context() as patched, pytest.raises(ConfigError) as e:
        patched.setattr("vitkit.training.step.loss_of", spoiled)
        vitkit.train(colours, out=out, **{**tiny, "max_bad_steps": 2, "epochs": 3})
    assert re.search("2 steps in a row.* last good weights are in .*last", str(e.value))
    assert str(e.value).endswith("and --resume with --allow-changes goes on from them")
    saved = load_file(out / "last" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    with pytest.raises(ConfigError, match="differs from the run"):
        vitkit.train(colours, out=out, resume=True, lr=1e-3)
    run = vitkit.train(colours, out=out, resume=True, allow_changes=True, lr=1e-3)
    assert run.finished and run.metrics[-1]["bad_steps"] == 2


def test_settings_that_are_known_to_fail_are_warned_of(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    given = {**tiny, "epochs": 1, "batch_size": 500}
    with pytest.warns(LikelyToFail, match="batch_size=500 makes an epoch of 43 images one step"):
        vitkit.train(colours, out=tmp_path / "run", **given)
