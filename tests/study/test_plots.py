"""The charts of a study: that points are where the values are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vitkit.study.catalogue import STUDIES, find_study
from vitkit.study.conditions import Conditions
from vitkit.study.design import Study
from vitkit.study.plots import (
    axis_of,
    draw_curves,
    draw_dependence,
    draw_scores,
    history_of,
    tones_of,
)
from vitkit.study.record import Record
from vitkit.study.results import Result

Made = Callable[..., Result]


def record(study: Study, results: dict[str, Result], **conditions: float) -> Record:
    return Record(Path("study"), study, Conditions(**{"epochs": 1, **conditions}), results)


def test_scores_lie_on_their_scale(result: Made) -> None:
    study = find_study("vit-vs-cnn")
    arms = {"vit": result(0.5, images=400), "cnn": result(0.7, 0.8, images=400)}
    chart = draw_scores(record(study, arms, seeds=2))
    ticks = {float(text): x for x, text in chart.x_ticks}
    (low, left), *_, (high, right) = ticks.items()
    assert (left, right) == (chart.left, chart.right)

    def place(share: float) -> float:
        return left + (100 * share - low) / (high - low) * (right - left)

    for row, arm in zip(chart.rows, arms.values(), strict=True):
        assert row.x == pytest.approx(place(arm.top1))
        assert row.low == pytest.approx(place(arm.top1 - arm.margin))
        assert row.high == pytest.approx(place(arm.top1 + arm.margin))
        assert left <= row.low < row.x < row.high <= right
        assert chart.top < row.y < chart.bottom
    vit, cnn = chart.rows
    assert (vit.name, vit.value, vit.seeds) == ("ViT", "50.0 %", ())
    assert cnn.seeds == pytest.approx((place(0.7), place(0.8)))
    assert vit.y < cnn.y
    assert chart.summary == "ViT 50.0 %; CNN 75.0 %"


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_intervals_end_where_shares_do(result: Made, score: float) -> None:
    study = find_study("vit-vs-cnn")
    arms = {"vit": result(score, images=20), "cnn": result(score, images=20)}
    chart = draw_scores(record(study, arms))
    assert min(float(text) for _, text in chart.x_ticks) >= 0
    assert max(float(text) for _, text in chart.x_ticks) <= 100
    for row in chart.rows:
        assert chart.left <= row.low <= row.x <= row.high <= chart.right


def test_dependence_is_on_a_scale_of_ratios(result: Made) -> None:
    study = find_study("data-size")
    scores = {arm.name: result(0.1 + 0.1 * place) for place, arm in enumerate(study.arms)}
    chart = draw_dependence(record(study, scores))
    assert chart is not None
    assert [text for _, text in chart.x_ticks] == ["1", "10", "100"]
    first, middle, last = (x for x, _ in chart.x_ticks)
    assert middle == pytest.approx((first + last) / 2)
    vit, cnn = chart.lines
    assert (vit.name, vit.value) == ("ViT", "30.0 %")
    assert [x for x, _ in cnn.marks] == pytest.approx([first, middle, last])
    assert vit.whiskers.count("M") == cnn.whiskers.count("M") == 3
    assert vit.tone != cnn.tone


def test_only_numbers_have_a_dependence(result: Made) -> None:
    for study in STUDIES:
        scores = {arm.name: result(0.5) for arm in study.arms}
        drawn = draw_dependence(record(study, scores)) is not None
        assert drawn == (study.name in ("data-size", "patch-size"))


def test_curves_are_by_epoch_or_by_the_clock(result: Made) -> None:
    rows = tuple({"epoch": n, "seconds": 6.0 * n, "val_top1": 0.1} for n in (1, 10, 20))
    run = replace(result(0.5).first, history=rows)
    assert [at for at, _ in history_of(run, 20)] == pytest.approx([1, 10, 20])
    assert [at for at, _ in history_of(run, 6)] == pytest.approx([0.3, 3, 6])  # on a share
    assert [at for at, _ in history_of(run, None)] == pytest.approx([0.1, 1, 2])
    assert history_of(run, None)[1][1] is rows[1]
    by_epoch, by_clock = axis_of([0.1, 2], False), axis_of([0.1, 2], True)
    assert (by_epoch.title, by_epoch.low, by_epoch.high) == ("epoch", 0.1, 2)
    assert (by_clock.title, by_clock.low, by_clock.high) == ("minutes", 0, 2)


def test_curves_have_a_line_for_every_arm(result: Made) -> None:
    study = find_study("positions")
    accuracy, loss = draw_curves(record(study, {arm.name: result(0.5) for arm in study.arms}))
    titles = [arm.title for arm in study.arms]
    assert [line.name for line in accuracy.lines] == [line.name for line in loss.lines] == titles
    assert {line.value for line in accuracy.lines} == {"50.0 %"}
    heights = sorted(line.label_y for line in accuracy.lines)
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 27.9
    assert heights[0] > 0 and heights[-1] < accuracy.bottom


def test_runs_without_validation_have_a_loss_only(result: Made) -> None:
    study = find_study("vit-vs-cnn")
    row = {"epoch": 1, "seconds": 1.0, "train_loss": 2.0, "val_top1": None}
    bare = Result((replace(result(0.5).first, history=(row,)),))
    (loss,) = draw_curves(record(study, {"vit": bare, "cnn": bare}))
    assert loss.title == "Training loss"


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_no_two_arms_look_alike(study: Study) -> None:
    tones = tones_of(record(study, {}))
    assert len(set(tones.values())) == len(study.arms) == len(tones)


def test_a_group_has_a_colour() -> None:
    tones = tones_of(record(find_study("data-size"), {}))
    assert tones["ViT, 1 %"] == "tone-1"
    assert tones["ViT, 100 %"] == "tone-1 dash-3"
    assert tones["CNN, 10 %"] == "tone-2 dash-2"
