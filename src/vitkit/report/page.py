"""The page itself: one HTML file that opens anywhere and asks nothing of a network."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import jinja2

from vitkit.report import confusion, headline, history, pictures
from vitkit.report.contents import Report
from vitkit.whole_file import replacing

MATRIX_CLASSES = 30  # beyond, the confusion matrix is a picture and a list of pairs
SAMPLES_SHOWN = 30
MISTAKES_SHOWN = 24
FILES_LISTED = 50


def write_report(path: Path, report: Report) -> Path:
    """Write the page of `report` to `path`, whole or not at all: a failure leaves an older one."""
    text = render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        # "replace": a file name with bytes that are no text must not cost the whole page
        temporary.write_text(text, "utf-8", errors="replace", newline="")
    return path


def render(report: Report) -> str:
    """The page of `report` as text."""
    rows = history.by_epoch(report.history)
    evaluation = report.evaluation
    script = _asset("page.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            evaluation=evaluation,
            interval=headline.interval(evaluation.top1, evaluation.images),
            baseline=headline.baseline(evaluation),
            warnings=headline.warnings(report, rows),
            splits=headline.SPLITS,
            rows=history.thinned(rows),
            charts=history.charts(rows),
            best=history.best(rows),
            matrix=len(evaluation.classes) <= MATRIX_CLASSES,
            shades=confusion.shades(evaluation),
            pairs=confusion.most_confused(evaluation),
            weakest=_weakest(report),
            samples=list(report.samples.items())[:SAMPLES_SHOWN],
            mistakes=sorted(report.mistakes, key=lambda m: -m.confidence)[:MISTAKES_SHOWN],
            files_listed=FILES_LISTED,
            style=_asset("page.css"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _weakest(report: Report) -> list[str]:
    """Class names by rising F1; those without images, whose F1 says nothing, at the end."""
    scores = report.evaluation.per_class
    return sorted(scores, key=lambda name: (scores[name].images == 0, scores[name].f1))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vitkit", "report"),
        autoescape=True,  # class and file names come from strangers' archives
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "short": short,
        "photo": pictures.photo,
        "heat_map": pictures.heat_map,
        "label_length": label_length,
    }
    environment.tests["tiny"] = pictures.is_tiny
    return environment


def percent(share: float, decimals: int = 1) -> str:
    """A share in [0, 1] as a percentage that says 100 only of the whole."""
    if share < 1 - 1e-9:
        share = min(share, 1 - 10.0 ** -(decimals + 2))
    return f"{share:.{decimals}%}".replace("%", "\u202f%")


def duration(seconds: float) -> str:
    """A time in its two largest units: 3 h 12 min, 2 min 5 s, 41 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def short(count: float) -> str:
    """A large count in three digits: 5.72 million."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:,.0f}"


def label_length(names: Mapping[str, object]) -> int:
    """Characters of the longest name."""
    return max(map(len, names), default=0)


def _asset(name: str) -> str:
    return resources.files("vitkit.report").joinpath(name).read_text(encoding="utf-8")
