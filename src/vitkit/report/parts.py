"""What the parts of a page that show evaluations are filled with."""

from collections.abc import Mapping
from typing import Any

from vitkit.evaluation.metrics import Evaluation
from vitkit.report import confusion, robustness
from vitkit.report.reliability import diagram

MATRIX_CLASSES = 30  # beyond, the confusion matrix is a picture and a list of pairs


def of_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """The values of `figures`, `calibration`, `robustness`, `confusion` and `classes.html`."""
    return {
        "evaluation": evaluation,
        "matrix": len(evaluation.classes) <= MATRIX_CLASSES,
        "shades": confusion.shades(evaluation),
        "pairs": confusion.most_confused(evaluation),
        "weakest": weakest(evaluation),
        **of_evaluations({"": evaluation}),
    }


def of_evaluations(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """The values of `calibration` and `robustness.html`, for each by its name."""
    return {
        "calibrations": [(n, one, diagram(one.reliability)) for n, one in evaluations.items()],
        "ordeals": [
            (name, borne, robustness.chart(one, borne), robustness.words(borne))
            for name, one in evaluations.items()
            for borne in [one.robustness]
            if borne is not None
        ],
    }


def weakest(evaluation: Evaluation) -> list[str]:
    """Class names by rising F1; those without images, whose F1 says nothing, at the end."""
    scores = evaluation.per_class
    return sorted(scores, key=lambda name: (scores[name].images == 0, scores[name].f1))
