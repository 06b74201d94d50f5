"""A confusion matrix made visible: shades of its cells, and the pairs that are confused most."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitkit.evaluation.metrics import Evaluation

PAIRS_SHOWN = 20


@dataclass(frozen=True)
class Confused:
    """Images of `truth` that were named `predicted`."""

    truth: str
    predicted: str
    images: int
    share: float  # of the images of `truth`, in [0, 1]


def shades(evaluation: Evaluation) -> NDArray[np.float64]:
    """Square root of each cell's share of its row (K, K), so that rare mistakes stay visible."""
    matrix = np.asarray(evaluation.confusion, dtype=np.float64)
    share: NDArray[np.float64] = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return np.sqrt(share)


def most_confused(evaluation: Evaluation, count: int = PAIRS_SHOWN) -> list[Confused]:
    """The `count` most frequent mistakes, by images and then in the order of the classes."""
    matrix = np.array(evaluation.confusion)
    totals = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:count]
    pairs = [divmod(int(cell), len(matrix)) for cell in order]
    return [
        Confused(
            evaluation.classes[truth],
            evaluation.classes[named],
            int(matrix[truth, named]),
            float(matrix[truth, named] / totals[truth]),
        )
        for truth, named in pairs
        if matrix[truth, named]
    ]
