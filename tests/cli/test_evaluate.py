"""`vitkit eval`."""

import json
import shutil
from pathlib import Path

import pytest

import vitkit
from vitkit.cli.evaluate import show


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
    assert lines[0] == (
        f"top-1 {evaluation.top1:.2%}  top-5 100.00%  macro-F1 {evaluation.macro_f1:.3f}  "
        f"calibration error {evaluation.ece:.3f}  of 60 images"
    )
    assert lines[2].split() == ["class", "images", "precision", "recall", "F1"]
    for line, (name, score) in zip(lines[3:6], evaluation.per_class.items(), strict=True):
        figures = [f"{value:.3f}" for value in (score.precision, score.recall, score.f1)]
        assert line.split() == [name, str(score.images), *figures]
    assert len({len(line) for line in lines[2:6]}) == 1  # columns
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
    assert [line.split()[0] for line in lines[3:5]] == ["a\\nb", "c\\x1b[2J"]
    assert len({len(line) for line in lines[2:5]}) == 1
    assert [line.split()[0] for line in lines[-2:]] == ["a\\nb", "c\\x1b[2J"]


def test_many_classes_have_no_confusion_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    from vitkit.evaluation.metrics import evaluate_predictions

    names = [f"class {number}" for number in range(40)]
    probabilities = [[float(row == column) for column in range(40)] for row in range(40)]
    show(evaluate_predictions(probabilities, list(range(40)), names))
    lines = capsys.readouterr().out.splitlines()
    assert not any("confusion" in line for line in lines)
    assert sum(line.startswith("class ") and line.endswith("1.000") for line in lines) == 40
