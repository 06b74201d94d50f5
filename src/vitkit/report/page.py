"""The page of a run: one HTML file that opens anywhere and asks nothing of a network."""

from pathlib import Path

from vitkit.report import frame, headline, history
from vitkit.report.contents import Report
from vitkit.report.parts import of_evaluation

SAMPLES_SHOWN = 30
MISTAKES_SHOWN = 24
FILES_LISTED = 50


def write_report(path: Path, report: Report) -> Path:
    """Write the page of `report` to `path`, whole or not at all: a failure leaves an older one."""
    return frame.write_page(path, render(report))


def render(report: Report) -> str:
    """The page of `report` as text."""
    rows = history.by_epoch(report.history)
    evaluation = report.evaluation
    return frame.render(
        "page.html",
        report=report,
        baseline=headline.baseline(evaluation),
        warnings=headline.warnings(report, rows),
        splits=headline.SPLITS,
        rows=history.thinned(rows),
        charts=history.charts(rows),
        best=history.best(rows),
        samples=list(report.samples.items())[:SAMPLES_SHOWN],
        mistakes=sorted(report.mistakes, key=lambda m: -m.confidence)[:MISTAKES_SHOWN],
        files_listed=FILES_LISTED,
        **of_evaluation(evaluation),
    )
