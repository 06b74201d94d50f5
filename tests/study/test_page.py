"""The page of a study, and its charts as a picture."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace

from html_page import Page
from vitkit.study.page import render, render_picture, write_pages
from vitkit.study.record import Record
from vitkit.study.results import Result

HOSTILE = """<img src=x onerror="alert('1')">&amp;</script>"""


def test_everything_is_there(done: Record) -> None:
    page = Page(render(done))
    assert page.headings == [
        "Claim",
        "Result",
        "Teacher",
        "Curves",
        "Conditions",
        "Environment",
    ]
    assert done.outcome is not None
    for words in (
        done.study.question,
        done.study.claim,
        done.study.source,
        done.outcome.sentence,
        done.outcome.gap.signed,
        "2 epochs",
        "12 held-out images",
    ):
        assert words in page.words
    assert ["model.pool", "cls", "mean"] in page.rows


def test_numbers_agree_with_the_record(done: Record) -> None:
    rows = {row[0]: row for row in Page(render(done)).rows}
    for arm in done.study.trained:
        result = done.results[arm.name]
        assert rows[arm.title][1] == f"{100 * result.top1:.1f} %"
        assert rows[arm.title][2] == f"{100 * result.margin:.1f}"
        assert rows[arm.title][3] == f"{result.first.parameters:,}"
        assert rows[arm.title][5] == (str(result.first.tokens) if result.first.tokens else "–")
        assert rows[arm.title][6] == "2"


def test_arms_lead_to_their_reports(done: Record) -> None:
    links = [a["href"] for tag, a in Page(render(done)).elements if tag == "a"]
    names = ["alone", "taught", "teacher"]
    assert links == [f"{name}-seed-0/report.html" for name in names]
    for link in links:
        assert (done.directory / link).is_file()


def test_nothing_is_loaded_from_anywhere(done: Record) -> None:
    text = render(done)
    for tag, attributes in Page(text).elements:
        assert tag not in ("img", "iframe", "object")
        assert not any(key.startswith("on") for key in attributes), (tag, attributes)
        if tag == "link":
            assert attributes["href"] == "data:,"
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text


def test_an_unfinished_study_says_how_to_go_on(done: Record) -> None:
    part = replace(done, results={"alone": done.results["alone"]})
    page = Page(render(part))
    assert "2 runs still to be done" in page.words
    assert f"vitkit study small --out {done.directory} --resume" in page.words
    assert "Teacher" not in page.headings
    assert "not finished" in page.words


def test_seeds_have_a_spread(done: Record, result: Callable[..., Result]) -> None:
    single = Page(render(done))
    assert not any("spread" in row for row in single.rows)
    assert "more seeds would tell" in single.words
    first = done.results["alone"].first
    again = Result((replace(first, top1=0.5), replace(first, top1=0.7)))
    results = {**done.results, "alone": again}
    text = render(replace(done, conditions=replace(done.conditions, seeds=2), results=results))
    page = Page(text)
    rows = {row[0]: row for row in page.rows}
    assert rows["arm"][3] == "spread"
    assert rows["alone"][1:4] == ["60.0 %", rows["alone"][2], "14.1"]
    assert rows["taught"][3] == "–"
    assert text.count('class="seed"') == 2
    assert "more seeds" not in page.words


def test_hostile_names_stay_words(done: Record) -> None:
    arms = tuple(replace(arm, title=HOSTILE + arm.name) for arm in done.study.arms)
    study = replace(done.study, arms=arms, question=HOSTILE, claim=HOSTILE, source=HOSTILE)
    conditions = replace(done.conditions, data=f"/data/{HOSTILE}.zip", settings={"x": HOSTILE})
    text = render(replace(done, study=study, conditions=conditions))
    assert "<img src=x" not in text
    assert HOSTILE in Page(text).words
    ET.fromstring(render_picture(replace(done, study=study)))


def test_the_picture_stands_alone(done: Record) -> None:
    root = ET.fromstring(render_picture(done))
    svg = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{svg}svg"
    titles = [text.text for text in root.iter(f"{svg}text") if text.get("class") == "title"]
    assert titles == [
        "Held-out images named correctly, with 95 % intervals",
        "Validation accuracy, %",
        "Training loss",
    ]
    assert "--tone-1" in "".join(style.text or "" for style in root.iter(f"{svg}style"))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for inner in root.findall(f"{svg}svg"):
        assert float(inner.get("x", 0)) + float(inner.get("width", 0)) <= width
        assert float(inner.get("y", 0)) + float(inner.get("height", 0)) <= height


def test_both_are_written(done: Record, tmp_path) -> None:
    write_pages(replace(done, directory=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.html", "study.svg"]
    assert (done.directory / "study.html").read_text() == render(done)
    assert (done.directory / "study.svg").read_text() == render_picture(done)
