"""Runs on data of every kind: broken, doubled, split already, too little."""

import csv
import json
import multiprocessing
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import vitkit
from vitkit.data.sources import open_source
from vitkit.data.transforms import Preprocess
from vitkit.errors import CheckpointError, ConfigError, DataError
from vitkit.progress import CAUTION, Progress, silent
from vitkit.training import dataset, directory, reading
from vitkit.training.config import resolve


def split_of(directory: Path) -> dict[str, tuple[str, str]]:
    with open(directory / "split.csv", newline="") as file:
        return {row["file_name"]: (row["label"], row["split"]) for row in csv.DictReader(file)}


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Two classes of ten, one of whose images is broken."""
    folder = tmp_path / "damaged"
    for number in range(20):
        noise(folder / "ab"[number % 2] / f"{number:02}.png", number)
    (folder / "a" / "04.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    return folder


def test_unreadable_images_are_counted_and_listed(
    damaged: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    heard: list[Progress] = []
    settings = {**tiny, "data.max_unreadable": 0.05, "epochs": 1}
    run = vitkit.train(damaged, out=tmp_path / "run", listen=heard.append, **settings)
    lines = {p.phase: p.figures for p in heard if p.final}
    counts = {name: int(count) for name, count in lines["images"].items()}
    assert counts.pop("unreadable") == 1
    assert set(counts) == {"train", "val", "test"}
    assert sum(counts.values()) == 19
    assert list(lines["left out"]) == ["a/04.png:"]
    assert "a/04.png" in split_of(run.directory)
    assert "a/04.png" in (run.directory / "report.html").read_text()
    with open(run.directory / "unreadable.csv", newline="") as file:
        assert [row["file_name"] for row in csv.DictReader(file)] == ["a/04.png"]


def test_unreadable_images_take_no_place_in_a_split(tiny: dict[str, Any], tmp_path: Path) -> None:
    """One readable image of class b among ten: with them in the draw, it could leave train."""
    data = tmp_path / "data"
    for number in range(20):
        noise(data / "ab"[number % 2] / f"{number:02}.png", number)
    for path in sorted((data / "b").iterdir())[:-1]:
        path.write_bytes(b"not an image")
    for seed in range(3):
        settings = {**tiny, "data.max_unreadable": 0.5, "epochs": 1, "seed": seed}
        run = vitkit.train(data, out=tmp_path / f"run-{seed}", **settings)
        rows = split_of(run.directory)
        assert rows["b/19.png"] == ("b", "train")
        assert {split for label, split in rows.values() if label == "b"} == {"train"}
        assert sum(split == "test" for _, split in rows.values()) == 2  # a fifth of 11, less b's


def test_a_class_without_a_readable_image_to_train_on_is_refused(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for number in range(24):
        part, kind = ("train", "test")[number % 2], "abc"[number // 2 % 3]
        noise(data / part / kind / f"{number:02}.png", number)
    for path in (data / "train" / "b").iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(DataError, match="the class 'b' has no readable image to train on; add"):
        vitkit.train(data, out=tmp_path / "run", **{**tiny, "data.max_unreadable": 0.5})
    with pytest.raises(DataError, match=r"the class 'cross' has .* \(nor have 5 others\); add"):
        whole = {**tiny, "data.val_fraction": 0, "data.test_fraction": 0}
        vitkit.train("shapes:count=2,size=16", out=tmp_path / "run", **whole)
    assert not (tmp_path / "run").exists()


def test_too_many_unreadable_images_stop_the_run_with_their_list(
    damaged: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"1 of 20 images cannot be read.*a/04.png: ") as caught:
        vitkit.train(damaged, out=tmp_path / "run", **tiny)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"; all are listed in {tmp_path / 'run' / 'unreadable.csv'}")


@pytest.mark.parametrize("named", [True, False])
def test_the_list_of_unreadable_images_is_whole_and_in_no_ones_way(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    for number in range(60):
        noise(folder / "ab"[number % 2] / f"{number:02}.png", number)
        if number % 2 == 0:
            (folder / "a" / f"{number:02}.png").write_bytes(b"no image")
    out = {"out": Path("runs", "data-vit_tiny_patch16_224")} if named else {}
    with pytest.raises(DataError, match="and 10 more; all are listed in runs"):
        vitkit.train(folder, **out, **tiny)
    (run,) = (tmp_path / "runs").iterdir()
    assert [path.name for path in run.iterdir()] == ["unreadable.csv"]
    with open(run / "unreadable.csv", newline="") as file:
        names = [row["file_name"] for row in csv.DictReader(file)]
    assert names == [f"a/{number:02}.png" for number in range(0, 60, 2)]
    for number in range(0, 60, 2):
        noise(folder / "a" / f"{number:02}.png", number)
    assert vitkit.train(folder, **out, **{**tiny, "epochs": 1}).finished  # the same command
    assert list((tmp_path / "runs").iterdir()) == [run]
    assert not (run / "unreadable.csv").exists()


def test_names_that_are_no_utf8(
    colours: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9")
    data = tmp_path / name
    shutil.copytree(colours, data)
    shutil.copy(data / "red" / "00.png", data / "red" / f"{name}.png")
    run = vitkit.train(data, **{**tiny, "epochs": 1})
    assert run.directory == Path("runs", "caf_-vit_tiny_patch16_224")
    assert (run.directory / "report.html").is_file()
    assert vitkit.train(data, out=run.directory, resume=True).finished
    monkeypatch.setattr(reading, "read_all", None)  # not even read
    for out in (tmp_path / name / "run", Path(name)):
        with pytest.raises(CheckpointError, match="is no UTF-8, which weights files need"):
            vitkit.train(data, out=out, **tiny)
    assert not (tmp_path / name / "run").exists()


def test_a_list_that_stopped_a_run_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "unreadable.csv").write_text("file_name,reason\n")
    directory.check_directory(tmp_path, resume=False)
    with pytest.raises(CheckpointError, match="holds no run"):
        directory.check_directory(tmp_path, resume=True)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        directory.check_directory(tmp_path, resume=False)


def test_identical_images_are_on_one_side_of_the_split(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "copies"
    for number in range(60):  # every image three times
        noise(folder / "ab"[number // 3 % 2] / f"{number:02}.png", number // 3)
    settings = {**tiny, "epochs": 1, "data.val_fraction": 0.3, "data.test_fraction": 0.3}
    run = vitkit.train(folder, out=tmp_path / "run", **settings)
    sides: dict[int, set[str]] = {}
    for name, (_, split) in split_of(run.directory).items():
        sides.setdefault(int(Path(name).stem) // 3, set()).add(split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert set.union(*sides.values()) == {"train", "val", "test"}


def test_the_splits_of_the_data_are_kept(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "split"
    for number in range(24):
        part = ("train", "train", "test")[number % 3]
        noise(folder / part / "ab"[number // 3 % 2] / f"{number:02}.png", number)
    run = vitkit.train(folder, out=tmp_path / "run", **{**tiny, "epochs": 1})
    rows = split_of(run.directory)
    assert all((split == "test") == name.startswith("test/") for name, (_, split) in rows.items())
    assert {split for _, split in rows.values()} == {"train", "val", "test"}


def test_without_a_test_split_val_is_scored(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    run = vitkit.train(colours, out=tmp_path / "run", **tiny, **{"data.test_fraction": 0})
    scores = json.loads((run.directory / "evaluation.json").read_text())
    assert (scores["split"], scores["images"]) == ("val, as the run split it", 6)
    assert run.evaluation is not None
    assert run.evaluation.top1 == max(row["val_top1"] for row in run.metrics)


def test_without_both_nothing_is_scored(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    none = {"data.test_fraction": 0, "data.val_fraction": 0}
    run = vitkit.train(colours, out=tmp_path / "run", **tiny, **none)
    assert run.evaluation is None
    assert not (run.directory / "report.html").exists()
    best, last = (run.directory / name / "model.safetensors" for name in ("best", "last"))
    assert best.read_bytes() == last.read_bytes()
    assert {row["val_top1"] for row in run.metrics} == {None}


def test_grey_input_has_one_channel(colours: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    grey = {"data.mean": [0.5], "data.std": [0.5], "epochs": 1}
    run = vitkit.train(colours, out=tmp_path / "run", **{**tiny, **grey})
    tensors = load_file(run.directory / "best" / "model.safetensors")
    assert tensors["patch_embed.proj.weight"].shape == (16, 1, 4, 4)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no image|class folders|no class"),
        (["only/1.png", "only/2.png"], "has one class only, 'only'"),
        (["train/a/1.png", "train/b/1.png", "val/c/1.png"], "'c' is in val but not in train"),
        (
            ["test/a/1.png", "test/b/2.png"],
            "no readable image outside test and val to train on; add a folder train/",
        ),
    ],
)
def test_data_without_enough_to_learn_is_refused(
    files: list[str], message: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number, name in enumerate(files):
        noise(folder / name, number)
    with pytest.raises(DataError, match=message) as caught:
        vitkit.train(folder, out=tmp_path / "run", **tiny)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.dim": 17}, "dim=17 is not a multiple of num_heads=2"),
        ({"data.image_size": 9}, "image_size=9 is not a multiple of patch_size=4"),
        ({"data.mean": [0.5, 0.5]}, "must have 1 or 3 values"),
        ({"device": "gpu"}, "device='gpu' is unknown"),
    ],
)
def test_settings_that_do_not_fit_are_found_before_anything_is_read(
    settings: dict[str, Any],
    message: str,
    colours: Path,
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_all(*args: Any, **more: Any) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(reading, "read_all", read_all)
    with pytest.raises(ConfigError, match=message):
        vitkit.train(colours, out=tmp_path / "run", **{**tiny, **settings})
    assert not (tmp_path / "run").exists()


def test_data_that_does_not_fit_into_memory_is_refused(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    given = {**tiny, "data.memory_gb": 1e-6, "data.loading": "memory"}
    with pytest.raises(DataError, match="more than data.memory_gb"):
        vitkit.train(colours, out=tmp_path / "run", **given)


def weights_of(run: vitkit.Run) -> dict[str, torch.Tensor]:
    return dict(run.load().model.state_dict())


def test_data_that_does_not_fit_into_memory_is_read_as_it_is_needed(
    finished: vitkit.Run, colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """The run is to the bit the one from memory, report and all."""
    given = {**tiny, "data.memory_gb": 1e-6, "data.workers": 2}
    run = vitkit.train(colours, out=tmp_path / "run", **given)
    assert run.evaluation == finished.evaluation
    assert (run.directory / "report.html").is_file()
    for one, other in zip(weights_of(run).values(), weights_of(finished).values(), strict=True):
        assert torch.equal(one, other)
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


def test_memory_and_files_show_the_same_parts(tmp_path: Path) -> None:
    """Boxes are those of the images as they are, of which memory has smaller ones, all of them."""
    folder = tmp_path / "data"
    for number in range(24):
        coarse = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        path = folder / "train" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (90, 48) if number % 3 else (50, 50)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    preprocess, batches = Preprocess(image_size=(24, 24), crop=0.7), []
    for loading in ("memory", "stream"):
        given = {"data.loading": loading, "augment.scale": (0.3, 1.0), "data.val_fraction": 0}
        settings = resolve({**given, "data.test_fraction": 0, "batch_size": 8}).settings
        source = open_source(folder)
        read = dataset.read_dataset(source, preprocess, settings, listen=silent)
        batches.append([images for images, _ in read.examples["train"].epoch(settings, 1)])
        read.close()
    for kept, fresh in zip(*batches, strict=True):
        gap = (kept.float() - fresh.float()).abs()
        assert kept.shape == fresh.shape == (8, 3, 24, 24)
        assert gap.mean() < 4 and gap.flatten(1).mean(1).max() < 8  # of 255; other parts: 50
        assert (kept[0].float() - fresh[1].float()).abs().mean() > 20


def test_how_images_are_read_stays(
    colours: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run does not begin to read from files, or the other way round."""
    steps = iter(range(100))
    out, given = tmp_path / "run", {**tiny, "augment.scale": (0.3, 1.0)}
    assert not vitkit.train(colours, out=out, stop=lambda: next(steps) >= 3, **given).finished
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["data"]["loading"] == "memory"
    monkeypatch.setattr("vitkit.data.loader.available_memory", lambda: 1000)
    with pytest.raises(DataError, match="more than half of what there is.*data.loading=stream"):
        vitkit.train(colours, out=out, resume=True)
    heard: list[Progress] = []
    run = vitkit.train(
        colours, out=tmp_path / "other", **{**given, "epochs": 1}, listen=heard.append
    )
    assert "they are read again in every epoch" in "".join(
        value for progress in heard for value in map(str, (progress.phase, progress.figures))
    )
    saved = yaml.safe_load((run.directory / "config.yaml").read_text())
    assert saved["data"]["loading"] == "stream"


def test_a_run_that_reads_as_it_goes_is_resumed_to_the_bit(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Random crops are drawn where images are read, by seed and number of the batch."""
    given = {**tiny, "data.loading": "stream", "augment.scale": (0.3, 1.0), "epochs": 2}
    whole = vitkit.train(colours, out=tmp_path / "whole", **{**given, "data.workers": 1})
    steps = iter(range(100))
    out = tmp_path / "part"
    part = vitkit.train(colours, out=out, stop=lambda: next(steps) >= 3, **given)
    assert not part.finished
    part = vitkit.train(colours, out=out, resume=True)
    for one, other in zip(weights_of(part).values(), weights_of(whole).values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("change", ["break", "repaint"])
def test_a_resumed_run_wants_the_images_it_was_started_with(
    tiny: dict[str, Any], tmp_path: Path, change: str
) -> None:
    data = tmp_path / "data"
    for number in range(40):
        noise(data / "ab"[number % 2] / f"{number:02}.png", number)
    settings = {**tiny, "data.max_unreadable": 0.1, "batch_size": 4}
    steps = iter(range(100))
    run = vitkit.train(data, out=tmp_path / "run", stop=lambda: next(steps) >= 9, **settings)
    assert not run.finished
    original = (data / "a" / "08.png").read_bytes()
    if change == "break":
        (data / "a" / "08.png").write_bytes(b"not an image")
    else:
        noise(data / "a" / "08.png", 99)
    with pytest.raises(DataError, match=r"the data changed.*a/08\.png"):
        vitkit.train(data, out=tmp_path / "run", resume=True)
    (data / "a" / "08.png").write_bytes(original)
    assert vitkit.train(data, out=tmp_path / "run", resume=True).finished


def test_a_run_whose_reader_is_killed_keeps_what_it_has(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    steps = iter(range(100))

    def kill_at_third() -> bool:
        if next(steps) == 2:
            for child in multiprocessing.active_children():
                child.kill()
        return False

    out = tmp_path / "run"
    given = {**tiny, "data.loading": "stream", "data.workers": 1, "batch_size": 4, "epochs": 2}
    with pytest.raises(DataError, match="was killed by signal 9"):
        vitkit.train(colours, out=out, stop=kill_at_third, **given)
    whole = vitkit.train(colours, out=tmp_path / "whole", **given)
    heard: list[Progress] = []
    run = vitkit.train(colours, out=out, resume=True, listen=heard.append)
    assert weights_of(run).keys() == weights_of(whole).keys()
    for one, other in zip(weights_of(run).values(), weights_of(whole).values(), strict=True):
        assert torch.equal(one, other)


def test_a_start_that_fails_leaves_no_process(
    damaged: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="1 of 20 images cannot be read") as caught:
        vitkit.train(damaged, out=tmp_path / "run", **{**tiny, "data.loading": "stream"})
    assert caught.value.__traceback__ is not None  # which keeps all that was begun
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


def test_images_that_the_start_has_learned_are_told(
    finished: vitkit.Run, colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Another seed makes another split, whose held-out images the weights know."""

    def cautions(name: str, **given: Any) -> list[str]:
        heard: list[Progress] = []
        settings = {**tiny, "epochs": 1, **given}
        vitkit.train(colours, out=tmp_path / name, listen=heard.append, **settings)
        lines = ["".join(each.figures.values()) for each in heard if each.phase == CAUTION]
        return [line for line in lines if "has learned" in line]

    (line,) = cautions("other", init=finished.directory, seed=1)
    found = re.search(r"init=.* has learned (\d+) of the 17 images of val and test, so", line)
    assert found and 5 < int(found[1]) <= 17
    (line,) = cautions("taught", teacher=finished.directory / "best", seed=1)
    assert line.startswith("distill.teacher=")
    assert not cautions("same", init=finished.directory)
