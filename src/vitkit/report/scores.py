"""The page of an evaluation, or of two models compared: what `vitkit eval --report` writes."""

from collections.abc import Sequence
from pathlib import Path

from vitkit.evaluation.compare import Comparison
from vitkit.evaluation.metrics import SCORES, Evaluation
from vitkit.report import frame
from vitkit.report.parts import of_evaluation, of_evaluations


def write_scores(
    path: Path,
    evaluation: Evaluation,
    data: str,
    models: Sequence[str],
    comparison: Comparison | None = None,
) -> Path:
    """Write the page of one model's scores on `data`, or of two with a `comparison`."""
    if comparison is None:
        return frame.write_page(path, render_scores(evaluation, data, models[0]))
    return frame.write_page(path, render_comparison(comparison, data, models))


def render_scores(evaluation: Evaluation, data: str, model: str) -> str:
    """The page of one model's scores as text."""
    return frame.render("scores.html", data=data, model=model, **of_evaluation(evaluation))


def render_comparison(comparison: Comparison, data: str, models: Sequence[str]) -> str:
    """The page of two models as text; they are called A and B."""
    pair = {"A": comparison.first, "B": comparison.second}
    return frame.render(
        "comparison.html",
        comparison=comparison,
        data=data,
        models=models,
        names=SCORES,
        **of_evaluations(pair),
    )
