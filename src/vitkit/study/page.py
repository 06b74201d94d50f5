"""A study's page, `study.html`, and its charts in one picture, `study.svg`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.report import frame
from vitkit.report.curves import Chart
from vitkit.study.plots import Scores, draw_curves, draw_dependence, draw_scores
from vitkit.study.record import Record
from vitkit.training.environment import read_environment

PAGE, PICTURE = "study.html", "study.svg"
VERDICTS = {"holds": "holds", "fails": "does not hold", "open": "undecided"}
NONE = "–"
MARGIN, TITLE, GAP = 20, 16, 28  # user units of the picture


@dataclass(frozen=True)
class Place:
    """Where a chart lies in the picture: its left end, and the line of its title."""

    x: int
    y: int
    chart: Chart | Scores


@dataclass(frozen=True)
class Difference:
    """A setting in which arms differ: its value in each arm, as text."""

    key: str
    values: tuple[str, ...]


def write_pages(record: Record) -> None:
    """Write page and picture, each whole or not at all."""
    frame.write_page(record.directory / PAGE, render(record))
    frame.write_page(record.directory / PICTURE, render_picture(record))


def render(record: Record) -> str:
    """The page of a study as text, of as much as is done: one arm at least."""
    return frame.render(
        "study.html",
        package="study",
        record=record,
        study=record.study,
        conditions=record.conditions,
        outcome=record.outcome,
        verdicts=VERDICTS,
        scores=draw_scores(record),
        dependence=draw_dependence(record),
        charts=draw_curves(record),
        first=record.arms[0][1].first,
        data_name=Path(record.conditions.data).name,
        differences=differences(record),
        shared={**record.study.common, **record.conditions.settings},
        environment=environment(record),
        missing=missing(record),
        text=text,
    )


def render_picture(record: Record) -> str:
    """The charts of a study as an SVG image."""
    dependence = draw_dependence(record)
    above: list[Chart | Scores] = [draw_scores(record), *([dependence] if dependence else [])]
    rows: list[Sequence[Chart | Scores]] = [above, draw_curves(record)]
    places, y = [], MARGIN
    for row in rows:
        x = MARGIN
        for chart in row:
            places.append(Place(x, y + TITLE, chart))
            x += chart.width + GAP
        y += max((chart.height for chart in row), default=0) + TITLE + GAP
    width = max(place.x + place.chart.width for place in places) + MARGIN
    return frame.render(
        "study.svg",
        package="study",
        style=frame.asset("chart.css"),
        title=record.study.question,
        places=places,
        width=width,
        height=y,
    )


def differences(record: Record) -> list[Difference]:
    """What tells the arms apart, setting by setting."""
    arms = record.study.arms
    keys = dict.fromkeys(key for arm in arms for key in arm.settings)
    return [
        Difference(
            key,
            tuple(text(arm.settings.get(key, record.study.common.get(key))) for arm in arms),
        )
        for key in keys
    ]


def environment(record: Record) -> dict[str, str]:
    """Where the first run was done."""
    runs = [run for result in record.results.values() for run in result.runs]
    return read_environment(runs[0].directory) if runs else {}


def missing(record: Record) -> int:
    """Runs that are still to be done."""
    done = sum(len(result.runs) for result in record.results.values())
    return len(record.study.trained) * record.conditions.seeds - done


def text(value: Any) -> str:
    """A setting as it is written on a command line; a dash where an arm has none."""
    if value is None:
        return NONE
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
