import numpy as np

from vitkit.evaluation.metrics import evaluate_predictions
from vitkit.report.confusion import Confused, most_confused, shades

TRUTH = [0, 0, 0, 0, 1, 1, 2]
NAMED = [0, 1, 1, 2, 1, 0, 2]
EVALUATION = evaluate_predictions(np.eye(4)[NAMED], TRUTH, ["a", "b", "c", "d"])


def test_most_confused() -> None:
    assert most_confused(EVALUATION) == [
        Confused("a", "b", images=2, share=0.5),
        Confused("a", "c", images=1, share=0.25),
        Confused("b", "a", images=1, share=0.5),
    ]
    assert len(most_confused(EVALUATION, count=1)) == 1
    assert most_confused(evaluate_predictions(np.eye(2), [0, 1], "ab")) == []


def test_shades() -> None:
    expected = np.array([[1 / 4, 2 / 4, 1 / 4, 0], [1 / 2, 1 / 2, 0, 0], [0, 0, 1, 0], [0] * 4])
    np.testing.assert_allclose(shades(EVALUATION) ** 2, expected)
