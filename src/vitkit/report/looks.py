"""Maps for a run's report: what its model goes by in some images, and what it knows of places."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vitkit.classifier import Classifier
from vitkit.errors import ConfigError
from vitkit.explain.explanation import Explanation
from vitkit.explain.methods import CONTROL, default_method
from vitkit.explain.positions import PositionSimilarity, position_similarity
from vitkit.report.contents import Look, Mistake, Positions

SIDE = 192  # pixels of a map, at least


def look(classifier: Classifier, name: str, image: NDArray[np.uint8], label: str) -> Look:
    """What speaks for a class in an image as the model sees it, (h, w, 3); and the control."""
    pixels = image.transpose(2, 0, 1)[: classifier.preprocess.channels]
    method = default_method(classifier.model)
    shown, control = (
        classifier.explain_pixels(np.ascontiguousarray(pixels), each, label)
        for each in (method, CONTROL)
    )
    return Look(name, image, method, label, shown.score, overlay(shown), overlay(control))


def overlay(explanation: Explanation) -> NDArray[np.uint8]:
    """A map over its image, for the page."""
    return explanation.overlay(side=SIDE)


def with_maps(mistakes: Sequence[Mistake], classifier: Classifier) -> list[Mistake]:
    """Mistakes, each with what spoke for the wrong name."""
    return [
        replace(
            mistake,
            map=look(classifier, mistake.name, mistake.image, mistake.predicted).map,
        )
        for mistake in mistakes
    ]


def positions(classifier: Classifier) -> Positions | None:
    """What the model has learned of places; None where it has no position embeddings."""
    try:
        similarity: PositionSimilarity = position_similarity(classifier.model)
        layout = similarity.layout()
    except ConfigError:
        return None
    learned = getattr(classifier.model.config, "position", "learned") == "learned"
    return Positions(
        similarity.picture(), layout.score, layout.shuffled_std, layout.p_value, learned
    )
