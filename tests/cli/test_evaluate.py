"""`vitkit eval`."""

import json
import shutil
from pathlib import Path

import pytest

import vitkit
from vitkit.cli.scores import show, show_comparison
from vitkit.evaluation.metrics import SCORES


def test_json_is_the_evaluation_and_nothing_else(
    vitkit_command, finished: vitkit.Run, colours: Path
) -> None:
    done = vitkit_command("eval", finished.directory, colours, "--json")
    images = len(list(colours.rglob("*.png"))) // 5
    assert (done.code, done.err) == (0, f"scored {images} images: test, as the run split it\n")
    found = json.loads(done.out)
    assert finished.evaluation is not None
    assert found == json.loads(json.dumps(finished.evaluation.to_json()))
    assert {"top1", "top5", "macro_f1", "ece", "images", "per_class", "confusion"} <= set(found)


def test_the_table_has_the_same_figures(
    vitkit_command, finished: vitkit.Run, colours: Path
) -> None:
    done = vitkit_command("eval", finished.directory, colours, "--split", "all")
    assert (done.code, done.err) == (0, "scored 60 images: all images\n")
    evaluation = vitkit.evaluate(finished.load(), colours, "all")
    lines = done.out.splitlines()
    assert lines[0] == "60 images            score   95 % interval"
    for line, (key, name) in zip(lines[1:6], SCORES.items(), strict=True):
        low, high = evaluation.intervals[key]
        figures = [f"{value:.2%}" for value in (getattr(evaluation, key), low, high)]
        assert line.removeprefix(name).split() == [*figures[:2], "to", figures[2]]
    assert lines[7].split() == ["class", "images", "precision", "recall", "F1"]
    for line, (name, score) in zip(lines[8:11], evaluation.per_class.items(), strict=True):
        figures = [f"{value:.3f}" for value in (score.precision, score.recall, score.f1)]
        assert line.split() == [name, str(score.images), *figures]
    assert len({len(line) for line in lines[7:11]}) == 1  # columns
    assert [list(map(int, line.split()[1:])) for line in lines[-3:]] == evaluation.confusion


def test_unreadable_images_are_listed_and_make_it_one(
    vitkit_command, finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(colours, data)
    (data / "red" / "07.png").write_bytes(b"not an image")
    done = vitkit_command("eval", finished.directory, data, "--split", "all", "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert found["images"] == 59
    assert [name for name, _ in found["unreadable"]] == ["red/07.png"]
    first, second = done.err.splitlines()
    assert first.startswith("scored 59 images: ")
    assert second.startswith("vitkit: left out red/07.png: ")


def test_it_says_what_was_scored(
    vitkit_command, finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    shutil.copytree(colours, tmp_path / "split" / "test")
    shutil.copytree(colours, tmp_path / "other", ignore=lambda _, names: set(names) & EARLY)
    for image in (tmp_path / "other").rglob("*.png"):
        image.rename(image.with_name(f"new{image.name}"))
    for data, what in {
        tmp_path / "split": "60 images: test, as the data has it",
        tmp_path / "other": "45 images: all images: neither the data nor the run has a split",
    }.items():
        done = vitkit_command("eval", finished.directory, data)
        assert done.code == 0
        assert done.err.startswith(f"scored {what}")
        assert done.err.count("\n") == 1


EARLY = {f"0{number}.png" for number in range(5)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "validation"], "has no split 'validation'; it has test, train, val"),
        (["--device", "gpu"], "device='gpu' is unknown; try auto, cpu or cuda:0"),
        (["--report", "pyproject.toml"], "pyproject.toml exists already; choose another name"),
        (["x", "y"], "4 arguments are too many; give CKPT DATA, or CKPT CKPT DATA to compare"),
    ],
)
def test_a_mistake_is_one_line(
    vitkit_command, finished: vitkit.Run, colours: Path, arguments: list[str], message: str
) -> None:
    done = vitkit_command("eval", finished.directory, colours, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_weights_file_alone_has_no_class_names(
    vitkit_command, finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    beside = finished.directory / "best" / "model.safetensors"  # its config.json says it
    assert vitkit_command("eval", beside, colours).code == 0
    file = tmp_path / "model.safetensors"
    shutil.copy(beside, file)
    done = vitkit_command("eval", file, colours)
    assert done.code == 2
    heads, size, fault = done.err.splitlines()
    assert heads.startswith("vitkit: guessed num_heads=1 is usual for dim=16")
    assert size.startswith("vitkit: guessed image_size=8x8, a square")
    assert "has the class 'blue'; the model knows only 0, 1, 2" in fault


def test_a_class_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from vitkit.evaluation.metrics import evaluate_predictions

    show(evaluate_predictions([[0.9, 0.1], [0.2, 0.8]], [0, 1], ["a\nb", "c\x1b[2J"]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[8:10]] == ["a\\nb", "c\\x1b[2J"]
    assert len({len(line) for line in lines[7:10]}) == 1
    assert [line.split()[0] for line in lines[-2:]] == ["a\\nb", "c\\x1b[2J"]


def test_many_classes_have_no_confusion_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    from vitkit.evaluation.metrics import evaluate_predictions

    names = [f"class {number}" for number in range(40)]
    probabilities = [[float(row == column) for column in range(40)] for row in range(40)]
    show(evaluate_predictions(probabilities, list(range(40)), names))
    lines = capsys.readouterr().out.splitlines()
    assert not any("confusion" in line for line in lines)
    assert sum(line.startswith("class ") and line.endswith("1.000") for line in lines) == 40


def test_a_temperature_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    from vitkit.evaluation.metrics import evaluate_predictions

    sure = [[0.99, 0.01], [0.01, 0.99], [0.99, 0.01], [0.01, 0.99]]
    scores = evaluate_predictions(sure, [0, 1, 1, 0], ["a", "b"], temperature=0.5)
    show(scores)
    line = capsys.readouterr().out.splitlines()[5]
    assert line.startswith("calibration error   49.00%")
    before = 0.99**0.5 / (0.99**0.5 + 0.01**0.5) - 0.5
    assert line.endswith(f"   {before:.2%} before its temperature of 0.5")


def test_corruptions(vitkit_command, finished: vitkit.Run, colours: Path, tmp_path: Path) -> None:
    page = tmp_path / "scores.html"
    options = ["--corruptions", "--report", page]
    done = vitkit_command("eval", finished.directory, colours, *options)
    assert done.code == 0 and done.err.splitlines()[-1] == f"report {page}"
    table = done.out.split("\n\n")[-1].splitlines()
    assert table[0] == "top-1 on corrupted images; severities as published for 32 pixels"
    assert table[1].split() == ["severity", "1", "2", "3", "4", "5", "mean"]
    borne = vitkit.evaluate(finished.load(), colours, corruptions=True).robustness
    assert borne is not None and len(table) == 3 + len(borne.kinds)
    for line, (kind, scores) in zip(table[2:], borne.kinds.items(), strict=False):
        figures = [f"{score:.1%}" for score in (*scores, sum(scores) / 5)]
        assert line.split() == [*kind.split("_"), *figures]
    assert table[-1].split()[:7] == [
        "mean",
        *(f"{s:.1%}" for s in (*borne.by_severity, borne.mean)),
    ]
    text = page.read_text("utf-8")
    assert "Robustness" in text and "gaussian noise" in text


@pytest.fixture(scope="module")
def worse(
    colours: Path, tiny: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> vitkit.Run:
    """A run on the same images with the same split that has learned next to nothing."""
    settings = tiny | {"epochs": 1, "lr": 1e-6, "warmup_epochs": 0}
    return vitkit.train(colours, out=tmp_path_factory.mktemp("runs") / "worse", **settings)


def test_two_models(
    vitkit_command, finished: vitkit.Run, worse: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    both = [worse.directory, finished.directory]
    done = vitkit_command("eval", *both, colours, "--report", tmp_path / "two.html")
    assert done.code == 0
    result = vitkit.compare(*both, colours)
    assert result.only_second > result.only_first
    lines = done.out.splitlines()
    assert lines[:2] == [f"A  {both[0]}", f"B  {both[1]}"]
    for line, (key, name) in zip(lines[4:9], SCORES.items(), strict=True):
        scores = [f"{getattr(one, key):.2%}" for one in (result.first, result.second)]
        low, high = (f"{100 * end:+.2f}" for end in result.intervals[key])
        change = f"{100 * result.difference[key]:+.2f}"
        assert line.removeprefix(name).split() == [*scores, change, low, "to", high]
    assert lines[10].startswith(f"right: both {result.both_right}, A alone {result.only_first}")
    assert lines[11] == (
        f"B names more images correctly (McNemar's exact test p = {result.p_value:.3g})"
    )
    turned = vitkit_command("eval", *both[::-1], colours).out.splitlines()
    assert turned[11] == lines[11].replace("B names", "A names")
    assert "points of top-1 from A to B" in (tmp_path / "two.html").read_text("utf-8")


def test_two_models_as_json(
    vitkit_command, finished: vitkit.Run, worse: vitkit.Run, colours: Path
) -> None:
    both = [str(worse.directory), str(finished.directory)]
    found = json.loads(vitkit_command("eval", *both, colours, "--json").out)
    assert found.pop("models") == both
    assert found == json.loads(json.dumps(vitkit.compare(*both, colours).to_json()))


def test_a_model_is_not_told_from_itself(
    vitkit_command, finished: vitkit.Run, colours: Path
) -> None:
    done = vitkit_command("eval", finished.directory, finished.directory, colours)
    last = done.out.splitlines()[-1]
    assert last == "no difference in top-1 that these images can show (McNemar's exact test p = 1)"


def test_models_of_other_classes_are_refused(
    vitkit_command, finished: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished.directory / "best", other)
    described = json.loads((other / "config.json").read_text("utf-8"))
    described["label_names"][0] = "azure"
    (other / "config.json").write_text(json.dumps(described))
    done = vitkit_command("eval", finished.directory, other, colours)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "vitkit: the models have different classes: 'azure' is known to one of them only; compare "
        "models that were trained on the same classes\n"
    )


def test_robustness_of_both_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    from vitkit.evaluation.compare import compare
    from vitkit.evaluation.metrics import answers_of, evaluate_predictions
    from vitkit.evaluation.robustness import Robustness

    rows = ([[0.9, 0.1], [0.2, 0.8]], [0, 1], ["a", "b"])
    borne = Robustness(0.5, (0.4, 0.6), {"fog": (0.9, 0.7, 0.5, 0.3, 0.1)}, (100, 100))
    scores = replace(evaluate_predictions(*rows), robustness=borne)
    answers = answers_of(*rows)
    show_comparison(compare(scores, scores, answers, answers), ["one", "t\nwo"])
    out = capsys.readouterr().out
    assert "B  t\\nwo" in out
    for letter in "AB":
        assert f"{letter}: top-1 on corrupted images; severities for 100 pixels, between" in out
    assert out.count("\nfog        90.0%   70.0%   50.0%   30.0%   10.0%    50.0%") == 2
