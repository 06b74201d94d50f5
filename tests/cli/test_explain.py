"""`vitkit explain`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitkit
from vitkit.explain.methods import METHODS

QUICK = [
    *("attention", "rollout", "gradient_rollout", "relevance", "legrad", "gradcam"),
    "random",
]


@pytest.fixture
def images(colours: Path) -> list[Path]:
    """A file of each class."""
    return sorted(colours.rglob("00.png"))


def test_pictures_and_a_page(
    vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    done = vitkit_command("explain", finished.directory, *images, "--out", out)
    assert done.code == 0
    best = finished.load().predict(images)
    assert done.out.splitlines() == [
        *(f"{image}  {p.label} {p.score:.1%}" for image, p in zip(images, best, strict=True)),
        f"pictures  {out}",
        f"page      {out / 'explain.html'}",
    ]
    stems = ["00", "00-1", "00-2"]  # of the same name in different folders
    expected = {f"{stem}-{method}.png" for stem in stems for method in QUICK} | {"explain.html"}
    assert {path.name for path in out.iterdir()} == expected
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width > 2 * picture.height * 0.9


def test_the_arrays_are_those_of_python(
    vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path
) -> None:
    given = ("--method", "attention", "--option", "layer=0", "--option", "head=1", "--arrays")
    vitkit_command("explain", finished.directory, images[0], *given, "--out", tmp_path / "m")
    expected = finished.load().explain(images[0], "attention", layer=0, head=1)
    with np.load(tmp_path / "m" / "00-attention.npz") as saved:
        assert np.array_equal(saved["grid"], expected.grid)
        about = json.loads(str(saved["about"]))
    assert about == {
        "method": "attention",
        "label": expected.label,
        "score": expected.score,
        "against": "",
        "signed": False,
        "for_class": False,
        "options": {"layer": 0, "head": 1},
    }
    assert "layer=0, head=1" in (tmp_path / "m" / "explain.html").read_text()
    assert {p.name for p in (tmp_path / "m").glob("*.npz")} == {
        "00-attention.npz",
        "00-random.npz",  # beside everything
    }


def test_json(vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path) -> None:
    done = vitkit_command(
        *("explain", finished.directory, images[0], "--method", "gradcam", "--json"),
        *("--target", "red", "--against", "blue", "--option", "seed=3", "--out", tmp_path / "m"),
    )
    told = json.loads(done.out)
    assert told["page"] == str(tmp_path / "m" / "explain.html")
    (row,) = told["images"]
    best = finished.load().predict(images[0])[0]
    assert (row["file"], row["label"], row["score"]) == (str(images[0]), best.label, best.score)
    assert row["maps"] == [
        {
            "method": method,
            "options": options,
            "target": target,
            "against": against,
            "picture": f"00-{method}.png",
        }
        for method, options, target, against in (
            ("gradcam", {}, "red", "blue"),
            ("random", {"seed": 3}, None, None),  # it is for no class
        )
    ]


def test_without_out_a_new_directory_is_made_under_runs(
    vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in ("", "-2"):
        vitkit_command("explain", finished.directory, images[0], "--method", "rollout")
        assert (tmp_path / f"runs/explain-{finished.directory.name}{number}/explain.html").is_file()


def test_what_cannot_be_read_is_left_out(
    vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(images[0].read_bytes()[:40])
    done = vitkit_command(
        "explain",
        finished.directory,
        bad,
        images[0],
        "--out",
        tmp_path / "m",
        "--method",
        "rollout",
    )
    assert done.code == 1
    assert f"left out {bad}: " in done.err
    assert (tmp_path / "m" / "00-rollout.png").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "rolout"], "no method is called 'rolout', did you mean 'rollout'?"),
        (
            ["--target", "rad"],
            "no class 'rad', did you mean 'red'?; it knows 'blue', 'green', 'red'",
        ),
        (["--against", "green", "--target", "green"], "against='green' is the target itself"),
        (["--method", "rollout", "--option", "layer=3"], "has an option 'layer'"),
        (["--option", "layer"], "--option layer is not KEY=VALUE"),
        (["--method", "attention", "--option", "layer=9"], "layer=9 is not among"),
        (["--method", "attention", "--option", "layer=1.5"], "layer=1.5 of attention is not a "),
        (["--option", "seed=x"], "seed='x' of random is not a whole number; by default it is 0"),
        (["--option", "seed=["], "--option seed=[ cannot be read as a value; quote it"),
        (["--option", "seed=2020-13-40"], "--option seed=2020-13-40 cannot be read as a value"),
    ],
)
def test_mistakes(
    vitkit_command,
    finished: vitkit.Run,
    images: list[Path],
    tmp_path: Path,
    options: list[str],
    words: str,
) -> None:
    out = tmp_path / "m"
    done = vitkit_command("explain", finished.directory, images[0], *options, "--out", out)
    assert done.code == 2
    assert words in done.err and len(done.err.splitlines()) == 1
    assert not out.exists() or not list(out.iterdir())


def test_an_old_directory_is_not_written_to(
    vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path
) -> None:
    done = vitkit_command("explain", finished.directory, images[0], "--out", tmp_path)
    assert (done.code, done.err) == (
        2,
        f"vitkit: {tmp_path} exists already; choose another --out\n",
    )


def test_methods_are_tested_against_random_maps(
    vitkit_command, finished: vitkit.Run, images: list[Path]
) -> None:
    done = vitkit_command(
        *("explain", finished.directory, *images, "--faithfulness", "--method", "relevance"),
    )
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == [
        *("method", "deletion", "insertion", "pointing", "forgetting", "verdict")
    ]
    assert [line.split()[0] for line in lines[1:3]] == ["relevance", "random"]
    assert lines[1].endswith("  too few images")
    assert lines[4].startswith("3 images, and verdicts need 10. ")


@pytest.mark.parametrize(
    ("options", "named", "remedy"),
    [
        (["--target", "red"], "--target", "it"),
        (["--against", "red"], "--against", "it"),
        (["--raw"], "--raw", "it"),
        (["--opacity", "0.6"], "--opacity", "it"),
        (["--arrays"], "--arrays", "it"),
        (["--out", "absent"], "--out", "it"),
        (["--out", "absent", "--raw"], "--raw, --out", "them"),
    ],
)
def test_faithfulness_takes_no_options_of_pictures(
    vitkit_command,
    finished: vitkit.Run,
    images: list[Path],
    options: list[str],
    named: str,
    remedy: str,
) -> None:
    done = vitkit_command("explain", finished.directory, *images, "--faithfulness", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"vitkit: {named} cannot go with --faithfulness, which makes a table about the classes "
        f"that the model names; leave {remedy} out\n"
    )


def test_a_count_of_images_is_for_faithfulness(
    vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path
) -> None:
    given = ("explain", finished.directory, *images, "--images", 2)
    done = vitkit_command(*given, "--out", tmp_path / "m")
    assert (done.code, done.err) == (
        2,
        "vitkit: --images=2 needs --faithfulness; pictures are made of all images\n",
    )
    done = vitkit_command(*given, "--faithfulness", "--method", "rollout")
    assert "\n2 images, " in done.out


def test_every_method_has_a_sentence_on_the_page(
    vitkit_command, finished: vitkit.Run, images: list[Path], tmp_path: Path
) -> None:
    vitkit_command(
        *("explain", finished.directory, images[0], "--method", "all", "--out", tmp_path / "m"),
        *("--option", "size=4", "--option", "stride=4", "--option", "steps=2"),
    )
    page = (tmp_path / "m" / "explain.html").read_text()
    for method in METHODS.values():
        assert method.about in page.replace("&#39;", "'")
