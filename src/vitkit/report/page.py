"""The page of a run: one HTML file that opens anywhere and asks nothing of a network."""

from pathlib import Path

from vitkit.report import confusion, frame, headline, history
from vitkit.report.contents import Report

MATRIX_CLASSES = 30  # beyond, the confusion matrix is a picture and a list of pairs
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
    )


def _weakest(report: Report) -> list[str]:
    """Class names by rising F1; those without images, whose F1 says nothing, at the end."""
    scores = report.evaluation.per_class
    return sorted(scores, key=lambda name: (scores[name].images == 0, scores[name].f1))
