"""The pages that `vitkit eval --report` writes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from html_page import Page
from vitkit.evaluation.compare import Comparison, compare
from vitkit.evaluation.corruptions import KINDS
from vitkit.evaluation.metrics import SCORES, Evaluation, answers_of, evaluate_predictions
from vitkit.evaluation.robustness import Robustness
from vitkit.report.scores import render_comparison, render_scores, write_scores

HOSTILE = """<img src=x onerror="alert('1')">&amp;</script>"""
BORNE = Robustness(
    0.523, (0.511, 0.535), {kind: (0.9, 0.8, 0.7, 0.6, 0.5) for kind in KINDS}, (32, 32)
)


def probabilities(seed: int, images: int = 300) -> np.ndarray:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(images, 7))
    logits[np.arange(images), np.arange(images) % 7] += 2 + seed
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True)


def evaluation(seed: int = 0, prefix: str = "class ", **changes: object) -> Evaluation:
    classes = [f"{prefix}{i}" for i in range(7)]
    scores = evaluate_predictions(probabilities(seed), np.arange(300) % 7, classes)
    return replace(scores, split="test, as the data has it", **changes)


def comparison(**changes: object) -> Comparison:
    labels, classes = np.arange(300) % 7, "abcdefg"
    answers = [answers_of(probabilities(seed), labels, classes) for seed in (0, 1)]
    return compare(evaluation(0, **changes), evaluation(1, **changes), *answers)


def spaced(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def test_the_page_of_a_model() -> None:
    scores = evaluation(temperature=0.713, ece_uncalibrated=0.234)
    page = Page(render_scores(scores, "flowers.zip", "runs/a"))
    assert page.headings == ["Calibration", "Confusion", "Classes"]
    for words in ("runs/a", "Scored on flowers.zip: test, as the data has it."):
        assert words in page.words
    assert f"{spaced(scores.top1)} of 300 images named correctly" in page.words
    for name in SCORES:
        low, high = (spaced(end) for end in scores.intervals[name])
        assert f"{low.rstrip(' %')} – {high}" in page.words
        assert name == "top1" or spaced(getattr(scores, name)) in page.words
    assert "temperature of 0.713" in page.words and "without it the error is 23.4 %" in page.words
    assert "temperature" not in Page(render_scores(evaluation(), "x", "y")).words
    circles = [tag for tag, _ in page.elements if tag == "circle"]
    assert len(circles) == len(scores.reliability)


def test_robustness_is_shown_where_it_was_measured() -> None:
    page = Page(render_scores(evaluation(robustness=BORNE), "flowers.zip", "runs/a"))
    assert page.headings == ["Calibration", "Robustness", "Confusion", "Classes"]
    assert "Mean over all kinds and severities 52.3 %, 95 % interval 51.1 – 53.5 %" in page.words
    assert ["gaussian noise", *(f"{n}0.0 %" for n in (9, 8, 7, 6, 5)), "70.0 %"] in page.rows
    assert sum(row[0].replace(" ", "_") in KINDS for row in page.rows if row) == len(KINDS)


def test_unreadable_images_are_said() -> None:
    scores = evaluation(unreadable=(("a.jpg", "is empty"),))
    assert (
        "1 image could not be read and was left out" in Page(render_scores(scores, "x", "y")).words
    )


@pytest.mark.parametrize("changes", [{}, {"robustness": BORNE}])
def test_the_page_of_two(changes: dict[str, object]) -> None:
    both = comparison(**changes)
    page = Page(render_comparison(both, "flowers.zip", ["runs/a", "runs/b"]))
    measured = ["Robustness"] if changes else []
    assert page.headings == ["Scores", "Calibration", *measured]
    points = f"{100 * both.difference['top1']:+.1f}"
    assert f"{points} points of top-1 from A to B, more than chance explains" in page.words
    assert f"{both.p_value:.3g}" in page.words and str(both.only_second) in page.words
    for name, words in SCORES.items():
        cells = [spaced(getattr(one, name)) for one in (both.first, both.second)]
        change = f"{100 * both.difference[name]:+.1f}".replace("-", "−")
        low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in both.intervals[name])
        assert [words, *cells, change, f"{low} to {high}"] in page.rows
    assert page.words.count("Accuracy by confidence") == 2
    assert page.words.count("every kind and severity") == 2 * len(measured)


def test_models_that_chance_can_explain() -> None:
    one, labels = evaluation(), np.arange(300) % 7
    answers = answers_of(probabilities(0), labels, "abcdefg")
    words = Page(render_comparison(compare(one, one, answers, answers), "x", "yz")).words
    assert "+0.0 points of top-1 from A to B, which chance can explain" in words


def test_hostile_names_stay_words() -> None:
    scores = evaluation(prefix=HOSTILE)
    for text in (
        render_scores(replace(scores, split=HOSTILE), HOSTILE, HOSTILE),
        render_comparison(comparison(), HOSTILE, [HOSTILE, HOSTILE]),
    ):
        page = Page(text)
        assert HOSTILE in page.words and "<img src=x" not in text


def test_writing(tmp_path: Path) -> None:
    one = write_scores(tmp_path / "one.html", evaluation(), "data", ["a"])
    two = write_scores(tmp_path / "two.html", evaluation(), "data", ["a", "b"], comparison())
    assert one.read_text("utf-8") == render_scores(evaluation(), "data", "a")
    assert two.read_text("utf-8") == render_comparison(comparison(), "data", ["a", "b"])
