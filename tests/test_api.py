"""The public names, and `train` and `evaluate` as a caller sees them."""

import importlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

import vitkit
from vitkit.data.sources import open_source
from vitkit.errors import ConfigError, DataError
from vitkit.progress import Progress
from vitkit.training.config import resolve
from vitkit.training.directory import new_directory


@pytest.mark.parametrize("name", vitkit.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(vitkit, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(vitkit)


def test_the_list_of_names_is_sorted_and_whole() -> None:
    assert vitkit.__all__ == sorted(vitkit.__all__)
    assert set(vitkit._MODULES) == set(vitkit.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        vitkit.trian  # noqa: B018


@pytest.mark.parametrize(
    "module", ["vitkit.evaluation.metrics", "vitkit.cli.evaluate", "vitkit.training.run"]
)
def test_no_module_takes_the_place_of_a_function(module: str) -> None:
    importlib.import_module(module)
    for name in vitkit.__all__:
        assert callable(getattr(vitkit, name)), name


def test_training_returns_a_run(finished: vitkit.Run) -> None:
    assert isinstance(finished, vitkit.Run)
    assert finished.finished
    assert finished.directory.is_dir()
    assert len(finished.metrics) == 4
    assert isinstance(finished.load(), vitkit.Classifier)
    assert isinstance(finished.evaluation, vitkit.Evaluation)
    stored = json.loads((finished.directory / "evaluation.json").read_text())
    assert stored["split"] == "test, as the run split it"
    assert json.loads(json.dumps(finished.evaluation.to_json())) == stored


def test_a_run_is_loaded_by_its_directory(finished: vitkit.Run, colours: Path) -> None:
    classifier = vitkit.load(finished.directory)
    best = vitkit.load(finished.directory / "best")
    (prediction,) = classifier.predict(colours / "green" / "03.png", topk=2)
    assert prediction.label == "green"
    assert [prediction] == best.predict(str(colours / "green" / "03.png"), topk=2)


# evaluate


def test_it_repeats_the_scores_of_the_run_to_the_bit(finished: vitkit.Run, colours: Path) -> None:
    assert vitkit.evaluate(finished.load(), colours) == finished.evaluation
    assert vitkit.evaluate(finished.load(), str(colours), "test") == finished.evaluation


def test_it_repeats_them_where_batches_differ(tiny: dict[str, Any], tmp_path: Path) -> None:
    data = "shapes:count=500,size=16"
    settings = {**tiny, "epochs": 1, "data.image_size": 16, "data.test_fraction": 0.6}
    run = vitkit.train(data, out=tmp_path / "run", **settings)
    assert run.evaluation is not None
    assert run.evaluation.images == 300
    assert vitkit.evaluate(run.load(), data) == run.evaluation


def test_the_splits_are_those_that_the_run_saved(finished: vitkit.Run, colours: Path) -> None:
    classifier = finished.load()
    images = {s: vitkit.evaluate(classifier, colours, s).images for s in ("train", "val", "test")}
    assert images == {"train": 43, "val": 5, "test": 12}
    val = vitkit.evaluate(classifier, colours, "val")
    assert val.top1 == pytest.approx(max(row["val_top1"] for row in finished.metrics))


def test_all_is_every_image_and_agrees_with_sklearn(finished: vitkit.Run, colours: Path) -> None:
    classifier = finished.load()
    evaluation = vitkit.evaluate(classifier, colours, "all")
    files = sorted(colours.rglob("*.png"))
    predicted = [prediction.label for prediction in classifier.predict(files)]
    truth = [file.parent.name for file in files]
    assert evaluation.images == 60
    assert evaluation.top1 == pytest.approx(accuracy_score(truth, predicted))
    assert evaluation.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert evaluation.confusion == confusion_matrix(truth, predicted).tolist()


def test_other_data_is_taken_whole_for_test(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(colours, other)
    for number, path in enumerate(sorted(other.rglob("*.png"))):
        path.rename(path.with_name(f"other-{number}.png"))
    evaluation = vitkit.evaluate(finished.load(), other)
    assert evaluation.images == 60
    assert evaluation.split.startswith("all images: neither the data nor the run has a split")
    with pytest.raises(DataError, match="has no split 'val'; it has none"):
        vitkit.evaluate(finished.load(), other, "val")


def test_images_that_came_later_do_not_bring_training_images_into_test(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(colours, grown)
    shutil.copy(grown / "red" / "00.png", grown / "red" / "zz.png")
    evaluation = vitkit.evaluate(finished.load(), grown)
    assert evaluation.images == 12
    assert evaluation.split == "test, as the run split it, without 1 new"


def of_split(run: vitkit.Run, split: str) -> list[str]:
    rows = (run.directory / "split.csv").read_text().splitlines()
    return [row.partition(",")[0] for row in rows if row.endswith(f",{split}")]


def test_other_images_under_the_same_names_are_new(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {**tiny, "epochs": 1, "data.image_size": 16}
    run = vitkit.train("shapes:count=80,size=16,seed=0", out=tmp_path / "run", **settings)
    classifier = run.load()
    evaluation = vitkit.evaluate(classifier, "shapes:count=80,size=16,seed=1")
    assert evaluation.images == 80
    assert evaluation.split == "all images: 80 have names of the run's, but other content"
    with pytest.raises(DataError, match=r"no split 'val' \(\d+ have the names .*\); it has test"):
        vitkit.evaluate(classifier, "shapes:count=80,size=16,seed=1", "val")
    assert vitkit.evaluate(classifier, "shapes:count=80,size=16,seed=0") == run.evaluation


def test_an_image_that_was_replaced_is_not_the_runs(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    other, names = tmp_path / "other", of_split(finished, "test")
    shutil.copytree(colours, other)
    Image.new("RGB", (9, 9)).save(other / names[0])
    (other / names[1]).write_bytes(b"not an image")  # nobody can tell: the name counts
    evaluation = vitkit.evaluate(finished.load(), other)
    assert evaluation.split == "test, as the run split it, without 1 changed"
    assert evaluation.images == 10
    assert [name for name, _ in evaluation.unreadable] == [names[1]]


def test_replacing_all_of_test_does_not_bring_training_images_into_it(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(colours, other)
    for name in of_split(finished, "test"):
        Image.new("RGB", (9, 9)).save(other / name)
    with pytest.raises(DataError, match=r"no split 'test' \(12 have .*\); it has train, val"):
        vitkit.evaluate(finished.load(), other)


def test_some_of_the_images_keep_their_splits(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    some = tmp_path / "some"
    shutil.copytree(colours, some)
    (some / of_split(finished, "test")[0]).unlink()
    assert vitkit.evaluate(finished.load(), some).images == 11


def test_a_class_may_be_absent_and_classes_may_be_in_another_order(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    manifest = colours.parent / "two.csv"
    manifest.write_text(
        "file_name,label\ncolours/red/00.png,red\ncolours/green/00.png,green\n", "utf-8"
    )
    evaluation = vitkit.evaluate(finished.load(), manifest, "all")
    assert evaluation.classes == ("blue", "green", "red")
    assert [score.images for score in evaluation.per_class.values()] == [0, 1, 1]
    assert evaluation.top1 == 1.0


def test_images_of_one_class_can_be_scored(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    shutil.copytree(colours / "red", tmp_path / "data" / "red")
    evaluation = vitkit.evaluate(finished.load(), tmp_path / "data", "all")
    assert evaluation.images == evaluation.per_class["red"].images == 20


@pytest.mark.parametrize("split", ["validation", "", "TEST"])
def test_an_unknown_split_names_the_known(finished: vitkit.Run, colours: Path, split: str) -> None:
    with pytest.raises(DataError, match=f"has no split '{split}'; it has test, train, val"):
        vitkit.evaluate(finished.load(), colours, split)


def test_a_class_that_the_model_does_not_know(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(colours, other)
    (other / "red").rename(other / "mauve")
    with pytest.raises(DataError, match="has the class 'mauve'; the model knows only blue, green"):
        vitkit.evaluate(finished.load(), other)


def test_unreadable_images_are_left_out_and_listed(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(colours, other)
    for name in ("blue/00.png", "red/19.png"):
        (other / name).write_bytes(b"not an image")
    evaluation = vitkit.evaluate(finished.load(), other, "all")
    assert evaluation.images == 58
    assert [name for name, _ in evaluation.unreadable] == ["blue/00.png", "red/19.png"]
    assert all(reason and "\n" not in reason for _, reason in evaluation.unreadable)


def test_a_run_lists_the_unreadable_of_its_split_as_evaluate_does(
    colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(colours, data / "train")
    shutil.copytree(colours, data / "test")
    for name in data.rglob("*[13579].png"):
        name.write_bytes(b"not an image")
    settings = {**tiny, "epochs": 1, "data.max_unreadable": 0.5}
    run = vitkit.train(data, out=tmp_path / "run", **settings)
    assert run.evaluation is not None
    assert len(run.evaluation.unreadable) == 30
    assert vitkit.evaluate(run.load(), data) == run.evaluation


def test_nothing_that_can_be_read(finished: vitkit.Run, tmp_path: Path) -> None:
    for name in ("red", "blue"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="not one image can be read of what was"):
        vitkit.evaluate(finished.load(), tmp_path / "data")


def test_a_val_split_cut_out_by_the_run_is_found_in_data_with_its_own_test(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    folder, random = tmp_path / "data", np.random.default_rng(0)
    for number in range(48):
        part = ("train", "train", "train", "test")[number % 4]
        path = folder / part / "ab"[number // 4 % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    run = vitkit.train(folder, out=tmp_path / "run", **{**tiny, "epochs": 1})
    classifier = run.load()
    assert vitkit.evaluate(classifier, folder).images == 12
    val = vitkit.evaluate(classifier, folder, "val")
    assert val.images == 4
    assert val.top1 == pytest.approx(run.metrics[0]["val_top1"])
    classifier.origin = None  # as after `hf-hub:`, or far from its run
    with pytest.raises(DataError, match="has no split 'val'; it has test, train"):
        vitkit.evaluate(classifier, folder, "val")


def test_a_source_without_a_test_split_is_not_scored_on_its_training_images(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        shutil.copytree(colours, tmp_path / "data" / split)
    with pytest.raises(DataError, match="has no split 'test'; it has train, val"):
        vitkit.evaluate(finished.load(), tmp_path / "data")


def test_progress_counts_every_image(finished: vitkit.Run, colours: Path) -> None:
    heard: list[Progress] = []
    vitkit.evaluate(finished.load(), colours, listen=heard.append)
    phases = [(phase, n, 12) for phase in ("compare", "evaluate") for n in range(1, 13)]
    assert [(p.phase, p.done, p.total) for p in heard] == phases


# train


def test_overrides_reach_the_run(colours: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    swin = {
        "model.patch_size": 2,
        "model.dim": 8,
        "model.depths": [1, 1],
        "model.num_heads": [1, 2],
        "model.window_size": 2,
        "data.image_size": [8, 16],
    }
    plain = {key: value for key, value in tiny.items() if not key.startswith("model.")}
    run = vitkit.train(
        colours,
        model="swin_tiny_patch4_window7_224",
        out=tmp_path / "run",
        **{**plain, **swin, "epochs": 1},
    )
    classifier = run.load()
    assert classifier.architecture == "swin_tiny_patch4_window7_224"
    assert classifier.preprocess.image_size == (8, 16)
    assert len(run.metrics) == 1


def test_recipe_weights_and_teacher_are_arguments(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    quick = {"epochs": 1, "device": "cpu", "precision": "fp32"}
    run = vitkit.train(
        colours,
        recipe="linear-probe",
        init=finished.directory,
        teacher=str(finished.directory),
        out=tmp_path / "run",
        **quick,
    )
    saved = yaml.safe_load((run.directory / "config.yaml").read_text())
    assert saved["recipe"] == "linear-probe"
    assert saved["init"] == saved["distill"]["teacher"] == str(finished.directory)
    assert (saved["tune"], saved["optimizer"], saved["epochs"]) == ("head", "sgd", 1)
    assert saved["model"]["dim"] == 16


def test_without_a_model_one_is_chosen_and_learns(colours: Path, tmp_path: Path) -> None:
    quick = {"epochs": 8, "batch_size": 8, "device": "cpu"}
    heard: list[Progress] = []
    run = vitkit.train(colours, out=tmp_path / "run", listen=heard.append, **quick)
    assert run.evaluation is not None
    assert run.evaluation.top1 >= 0.9  # colours are easy
    saved = yaml.safe_load((run.directory / "config.yaml").read_text())
    assert saved["recipe"] == "small"
    again = vitkit.train(colours, model="auto", out=tmp_path / "again", **{**quick, "epochs": 1})
    assert again.load().architecture == run.load().architecture == saved["model"]["name"]


# By the clock

CLOCK = {"minutes": 0.05, "epochs": 1, "batch_size": 64}  # 3 seconds; one epoch takes a tenth


@pytest.fixture(scope="module")
def timed(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> vitkit.Run:
    open_source("digits")  # whose library takes a second to load, once
    out = tmp_path_factory.mktemp("timed") / "run"
    return vitkit.train("digits", out=out, **{**tiny, **CLOCK, "min_lr": 1e-6})


def test_a_run_by_the_clock_ends_on_time(timed: vitkit.Run) -> None:
    rows = timed.metrics
    assert timed.finished
    assert rows[-1]["seconds"] < 3 + 1  # and a slow machine's last step and scoring
    assert rows[-1]["epoch"] > 1  # epochs are not the limit
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


def test_a_run_by_the_clock_ends_with_a_low_rate(timed: vitkit.Run) -> None:
    rates = [row["lr"] for row in timed.metrics]
    assert rates[-1] < 0.1 * 1e-2
    assert rates[-1] == min(rates)
    assert timed.evaluation is not None
    assert timed.evaluation.images == 360


def test_by_the_clock_scoring_takes_little(timed: vitkit.Run) -> None:
    steps = [row["step"] for row in timed.metrics]
    assert len(steps) < steps[-1] / -(-1294 // 64)  # short epochs share a row


def test_a_run_by_the_clock_goes_on_with_what_is_left(tiny: dict[str, Any], tmp_path: Path) -> None:
    asked = iter(range(10**9))
    given = {**tiny, **CLOCK, "min_lr": 1e-6, "out": tmp_path / "run"}
    stopped = vitkit.train("digits", stop=lambda: next(asked) >= 40, **given)
    assert not stopped.finished
    started = time.monotonic()
    run = vitkit.train("digits", resume=True, **given)
    assert run.finished
    assert time.monotonic() - started < 3 + 3  # reading and the report are not in the 3 seconds
    last = run.metrics[-1]
    assert last["step"] > 41
    assert last["seconds"] < 3 + 1
    assert last["lr"] < 0.1 * 1e-2


def test_an_argument_that_is_no_setting_is_refused(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no setting is called 'epoch', did you mean 'epochs'"):
        vitkit.train(colours, out=tmp_path / "run", epoch=3)
    with pytest.raises(DataError, match="does not exist"):
        vitkit.train(tmp_path / "absent", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "stem"),
    [
        ("shapes:count=20", "shapes"),
        ("photos/flowers", "flowers"),
        ("photos/flowers.zip", "flowers"),
        ("flowers/", "flowers"),
        (Path("a/labels.csv"), "labels"),
        (".", "data"),
    ],
)
def test_a_new_directory_is_named_after_data_and_model(
    data: str | Path, stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = resolve(["model.name=vit_small_patch16_224.augreg_in1k"])
    first = new_directory(data, resolved)
    assert first.parent == Path("runs")
    assert first.name.startswith(f"{stem}-vit_small_patch16_224")
    assert first.is_dir()
    assert new_directory(data, resolved) == first.with_name(f"{first.name}-2")


def test_a_source_is_read_as_the_run_read_it(finished: vitkit.Run, colours: Path) -> None:
    source = open_source(colours)
    answers = list(finished.load().stream(source))
    assert [answer.index for answer in answers] == list(range(60))


# compare, corruptions


@pytest.fixture(scope="module")
def other(
    colours: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> vitkit.Run:
    """A run on the same images that holds out others of them."""
    settings = tiny | {"seed": 5, "epochs": 2}
    return vitkit.train(colours, out=tmp_path_factory.mktemp("runs") / "other", **settings)


def held_out(run: vitkit.Run) -> set[str]:
    rows = (run.directory / "split.csv").read_text().splitlines()[1:]
    return {row.split(",")[0] for row in rows if row.endswith(",test")}


def test_runs_that_split_the_data_in_two_ways_are_compared_on_what_both_hold_out(
    finished: vitkit.Run, other: vitkit.Run, colours: Path
) -> None:
    common = held_out(finished) & held_out(other)
    assert 0 < len(common) < len(held_out(finished)) == 12
    result = vitkit.compare(finished.load(), other.load(), colours)
    assert result.first.split == "test, what both runs hold out of it"
    both, one, two, neither = (
        *(result.both_right, result.only_first),
        *(result.only_second, result.both_wrong),
    )
    assert both + one + two + neither == result.first.images == len(common)
    source = open_source(colours)
    inside = [i for i, sample in enumerate(source.samples) if sample.name in common]
    for evaluation, run in ((result.first, finished), (result.second, other)):
        answers = [run.load().predict(colours / source.samples[i].name)[0].label for i in inside]
        truths = [source.classes[source.samples[i].label or 0] for i in inside]
        assert evaluation.top1 == pytest.approx(accuracy_score(truths, answers))


def test_of_a_run_and_a_checkpoint_the_run_knows_the_split(
    finished: vitkit.Run, other: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    shutil.copytree(other.directory / "best", tmp_path / "alone")
    for split, images in (("test", 12), ("val", 5)):
        result = vitkit.compare(tmp_path / "alone", finished.directory, colours, split)
        assert result.second.images == images
        assert result.second == vitkit.evaluate(finished.load(), colours, split)
    assert vitkit.compare(tmp_path / "alone", tmp_path / "alone", colours).first.images == 60


def test_classes_may_stand_in_another_order(
    finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    """The same model with its outputs turned round is the same model."""
    turned = finished.load(device="cpu")
    head = turned.model.get_submodule("head")
    with torch.no_grad():
        head.weight.copy_(head.weight[[2, 0, 1]])
        head.bias.copy_(head.bias[[2, 0, 1]])
    turned.classes = [turned.classes[i] for i in (2, 0, 1)]
    result = vitkit.compare(finished.load(), turned, colours, "all")
    assert (result.only_first, result.only_second, result.p_value) == (0, 0, 1)
    assert result.first.top1 == result.second.top1


def test_runs_that_hold_out_nothing_in_common(
    finished: vitkit.Run, other: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    apart = tmp_path / "apart"
    shutil.copytree(other.directory, apart)
    rows = (apart / "split.csv").read_text().splitlines()
    mine = held_out(finished)
    changed = [
        row[: -len("test")] + "train"
        if row.split(",")[0] in mine and row.endswith(",test")
        else row
        for row in rows
    ]
    (apart / "split.csv").write_text("\n".join(changed) + "\n")
    with pytest.raises(DataError, match="no image is in the split 'test' of both runs"):
        vitkit.compare(finished.directory, apart, colours)


def test_corruptions_leave_the_other_scores_as_they_are(
    finished: vitkit.Run, colours: Path
) -> None:
    plain = vitkit.evaluate(finished.load(), colours)
    tried = vitkit.evaluate(finished.load(), colours, corruptions=True)
    assert plain.robustness is None and tried.robustness is not None
    assert replace(tried, robustness=None) == plain
    assert tried == vitkit.evaluate(finished.load(), colours, corruptions=True)
    assert len(tried.robustness.kinds) == 17 and tried.robustness.image_size == (8, 8)
