from pathlib import Path

import numpy as np
import pytest

from html_page import Page
from vitkit.data.check.copies import Copy, Exact
from vitkit.data.check.look import look
from vitkit.data.check.near import Pairs
from vitkit.data.check.outliers import RULES, Unusual
from vitkit.data.check.run import DataCheck, judge
from vitkit.data.sources import Source, open_source
from vitkit.errors import ConfigError
from vitkit.report.check import flagged, place, render, write_check
from vitkit.report.findings import PAIRS, TILES, shelves
from vitkit.training.label_check import LabelCheck

HOSTILE = """<img src=x onerror="alert('1')">.png"""


@pytest.fixture(scope="module")
def source(colours: Path) -> Source:
    return open_source(colours)


@pytest.fixture(scope="module")
def clean(source: Source) -> DataCheck:
    return judge(source, look(source))


@pytest.fixture(scope="module")
def found(clean: DataCheck) -> DataCheck:
    """Something of everything, made up."""
    from dataclasses import replace

    rows = np.arange(60)
    near = Pairs(rows[:30], rows[30:], np.linspace(1, 0.96, 30), np.arange(30) % 8)
    odd = tuple(Unusual(rule, 5.0, 7.0, rows[:40], rows[:40] / 10) for rule in RULES)
    samples = tuple(
        replace(sample, split="test" if row > 50 else "train")
        for row, sample in enumerate(clean.samples)
    )
    return replace(
        clean,
        samples=samples,
        summary=replace(clean.summary, unreadable=((HOSTILE, "<b>broken</b>"),)),
        exact=(Exact((0, 1), True), Exact((2, 3, 4, 5, 6), False)),
        near=near,
        leaks=tuple(Copy(row, 0, 0.97, "mirrored") for row in range(51, 60)),
        conflicts=(Copy(1, 59, 1.0, "same file"),),
        unusual=odd,
        rare=("red",),
        flat=3,
    )


@pytest.fixture(scope="module")
def labels() -> LabelCheck:
    return LabelCheck(
        np.arange(50), np.zeros(50, int), np.linspace(1, 0.5, 50), 58, 2, 0.8, "a model"
    )


def picture(row: int) -> np.ndarray:
    return np.full((8, 8, 3), row, np.uint8)


def test_a_shelf_for_each_kind(found: DataCheck, labels: LabelCheck) -> None:
    shown = shelves(found, labels, picture)
    assert [(shelf.title, shelf.total) for shelf in shown] == [
        ("Shared between splits", 9),
        ("Copies under different labels", 1),
        ("Likely wrong labels", 50),
        ("Exact copies", 2),
        ("Near copies", 30),
        *((rule.finding.capitalize(), 40) for rule in RULES),
    ]
    sizes = {shelf.title: len(shelf.tiles) for shelf in shown}
    assert (sizes["Near copies"], sizes["Dark"]) == (PAIRS, TILES)
    leak = shown[0].tiles[0]
    assert leak.lines == ("test – train", "0.970 alike, mirrored")
    assert leak.files == ("red/11.png", "blue/00.png")
    assert [int(image[0, 0, 0]) for image in leak.images] == [51, 0]
    assert shown[1].tiles[0].lines == ("blue – red", "same file")
    assert shown[2].tiles[0].lines == ("rather blue", "labelled blue", "suspicion 1.000")
    assert shown[3].tiles[0].lines == ("5 times the same pixels",)  # the largest group first
    assert (
        "58 images scored by a model; its first choice is the label of 80%. 2 were not"
        in shown[2].note
    )
    assert shown[-1].note.endswith("under 5, where the set's median is 7.")


def test_the_page_shows_all_of_it(source: Source, found: DataCheck, labels: LabelCheck) -> None:
    text = render(source, found, labels)
    page = Page(text)
    assert page.headings == [
        "Classes",
        "Files",
        "Copies",
        "Labels",
        "Unusual images",
        "How it was judged",
    ]
    assert f"{flagged(found):,} of 60 files to look at" in " ".join(page.words.split())
    assert "9 images to test on have a copy in an earlier split (0 exact, 9 nearly" in page.words
    assert "Too few images to train on: red." in page.words
    assert "3 images too even to be compared" in page.words
    assert HOSTILE in page.words and "onerror" not in str(page.elements).replace(HOSTILE, "")
    images = [attrs["src"] or "" for tag, attrs in page.elements if tag == "img"]
    assert len(images) > 100 and all(src.startswith("data:image/") for src in images)
    assert ["dark", "luma of the lightest parts", "7", "under 5", "40"] in page.rows


def test_a_clean_set_has_a_short_page(source: Source, clean: DataCheck) -> None:
    page = Page(render(source, clean))
    assert page.headings == ["Classes", "How it was judged"]
    assert "0 of 60 files to look at" in " ".join(page.words.split())
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_page_and_list_are_written(
    source: Source, found: DataCheck, labels: LabelCheck, tmp_path: Path
) -> None:
    page = write_check(tmp_path / "new", source, found, labels)
    assert sorted(path.name for path in page.parent.iterdir()) == ["check.html", "findings.csv"]
    lines = (tmp_path / "new" / "findings.csv").read_text().splitlines()
    assert lines[0] == "file_name,finding,value,threshold,detail"
    assert len(lines) - 1 == len(list(found.findings())) + 50
    assert 'blue/00.png,likely wrong label,1.0000,,"labelled blue, rather blue"' in lines
    with pytest.raises(ConfigError, match="holds a check already; choose another --out"):
        place(source, tmp_path / "new")
    with pytest.raises(ConfigError, match="is a file; name a directory"):
        place(source, page)


def test_a_place_of_its_own(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place(source, None) == Path("runs/check-colours")
    (tmp_path / "runs" / "check-colours").mkdir(parents=True)
    assert place(source, None) == Path("runs/check-colours-2")
    assert place(source, tmp_path / "x") == tmp_path / "x"
    assert place(open_source("shapes:count=9"), None) == Path("runs/check-shapes")
