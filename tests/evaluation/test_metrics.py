import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics
from numpy.typing import NDArray

from vitkit.errors import ConfigError, DataError
from vitkit.evaluation.metrics import (
    ClassScore,
    Evaluation,
    evaluate_predictions,
)
from vitkit.evaluation.robustness import Robustness


def random_case(
    n: int, num_classes: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=n)
    logits = rng.normal(size=(n, num_classes))
    logits[np.arange(n), labels] += 1.5
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), labels, [f"c{i}" for i in range(num_classes)]


def test_hand_computed() -> None:
    p = [[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.3, 0.6, 0.1], [0.2, 0.2, 0.6]]
    result = evaluate_predictions(p, [0, 0, 1, 1], ["cat", "dog", "cow"])
    assert result.top1 == 2 / 4
    assert result.top5 == 1  # fewer than 5 classes
    assert result.confusion == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert result.per_class == {
        "cat": ClassScore(images=2, precision=1, recall=1 / 2, f1=2 / 3),
        "dog": ClassScore(images=2, precision=1 / 2, recall=1 / 2, f1=1 / 2),
        "cow": ClassScore(images=0, precision=0, recall=0, f1=0),
    }
    # "cow" has no image but was named once, so it counts
    assert result.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # 0.7, 0.5, 0.6 (twice) fall in three bins: |1 - 0.7| + |0 - 0.5| + |1 + 0 - 0.6 - 0.6|
    assert result.ece == pytest.approx((0.3 + 0.5 + 0.2) / 4)
    assert (result.images, result.classes) == (4, ("cat", "dog", "cow"))


@pytest.mark.parametrize("num_classes", [2, 5, 7, 30])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_matches_sklearn(num_classes: int, dtype: type[np.floating]) -> None:
    p, labels, classes = random_case(200, num_classes)
    p = p.astype(dtype)
    predicted = p.argmax(axis=1)
    result = evaluate_predictions(p, labels, classes)
    everything = list(range(num_classes))
    assert result.top1 == sklearn.metrics.accuracy_score(labels, predicted)
    assert result.macro_f1 == pytest.approx(
        sklearn.metrics.f1_score(labels, predicted, average="macro")
    )
    assert result.balanced_accuracy == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels, predicted)
    )
    expected = sklearn.metrics.confusion_matrix(labels, predicted, labels=everything)
    assert result.confusion == expected.tolist()
    scores = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=everything, zero_division=0
    )
    ours = [(s.precision, s.recall, s.f1, s.images) for s in result.per_class.values()]
    np.testing.assert_allclose(np.transpose(ours), np.stack(scores), rtol=1e-12)
    if num_classes > 5:
        top5 = sklearn.metrics.top_k_accuracy_score(labels, p, k=5, labels=everything)
        assert result.top5 == pytest.approx(top5)


@pytest.mark.parametrize("seed", range(3))
def test_matches_torchmetrics(seed: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    p, labels, classes = random_case(300, 12, seed)
    labels[labels == 11] = 0  # the last class is absent, and perhaps named
    result = evaluate_predictions(p, labels, classes)
    tensors = torch.from_numpy(p), torch.from_numpy(labels)
    for value, expected in {
        result.ece: functional.multiclass_calibration_error(*tensors, 12, n_bins=15),
        result.top5: functional.multiclass_accuracy(*tensors, 12, top_k=5, average="micro"),
        result.macro_f1: functional.multiclass_f1_score(*tensors, 12, average="macro"),
    }.items():
        assert value == pytest.approx(float(expected), rel=1e-5)


def test_classes_that_nobody_saw_do_not_count() -> None:
    p, labels, classes = random_case(100, 4)
    wide = np.concatenate([p, np.zeros((100, 3))], axis=1)
    result = evaluate_predictions(wide, labels, [*classes, "x", "y", "z"])
    plain = evaluate_predictions(p, labels, classes)
    assert result.macro_f1 == plain.macro_f1
    assert result.balanced_accuracy == plain.balanced_accuracy
    assert result.per_class["z"] == ClassScore(images=0, precision=0, recall=0, f1=0)


def test_the_temperature_is_taken_back_for_the_error_without_it() -> None:
    p, labels, classes = random_case(400, 5)
    logits = np.log(p)
    sharp = np.exp(logits / 0.5)
    result = evaluate_predictions(
        sharp / sharp.sum(axis=1, keepdims=True), labels, classes, temperature=0.5
    )
    plain = evaluate_predictions(p, labels, classes)
    assert (plain.temperature, plain.ece_uncalibrated) == (1, plain.ece)
    assert result.temperature == 0.5
    assert result.ece_uncalibrated == pytest.approx(plain.ece, rel=1e-9)
    assert abs(result.ece - plain.ece) > 0.01
    assert (result.top1, result.macro_f1) == (plain.top1, plain.macro_f1)


def test_one_class() -> None:
    result = evaluate_predictions([[1.0], [1.0]], [0, 0], ["only"])
    assert (result.top1, result.top5, result.macro_f1, result.ece) == (1, 1, 1, 0)
    assert result.confusion == [[2]]


def test_equal_probabilities_rank_like_argmax() -> None:
    """A model that always says the same must not score 100 %."""
    p = np.full((8, 8), 1 / 8)
    result = evaluate_predictions(p, np.arange(8), [str(i) for i in range(8)])
    assert (result.top1, result.top5) == (1 / 8, 5 / 8)


def test_json_round_trip() -> None:
    scores = evaluate_predictions(*random_case(50, 6), temperature=1.5)
    borne = Robustness(0.4, (0.3, 0.5), {"fog": (0.8, 0.6, 0.4, 0.2, 0.0)}, (32, 48))
    result = replace(scores, unreadable=(("a.jpg", "is empty"),), robustness=borne)
    text = json.dumps(result.to_json(), allow_nan=False)
    fields = json.loads(text)
    assert list(fields) == [
        *("top1", "top5", "macro_f1", "balanced_accuracy", "ece", "images"),
        *("per_class", "confusion", "intervals", "reliability"),
        *("temperature", "ece_uncalibrated", "robustness", "split", "unreadable"),
    ]
    assert list(fields["per_class"]["c0"]) == ["images", "precision", "recall", "f1"]
    assert Evaluation.from_json(fields) == result


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"per_class": {}},
        {"per_class": 3},
        {"per_class": {"a": {}}},
        {"per_class": {}, "intervals": {"top1": [0.5]}, "reliability": []},
        {"per_class": {}, "intervals": {}, "reliability": [{"low": 0}]},
        {"per_class": {}, "intervals": {}, "reliability": [], "robustness": {"mean": 1}},
    ],
)
def test_json_of_something_else(fields: dict[str, object]) -> None:
    with pytest.raises(DataError, match="not an evaluation"):
        Evaluation.from_json(fields)


OK = [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("p", "labels", "classes", "error", "message"),
    [
        (np.empty((0, 2)), np.empty(0, int), "ab", DataError, "0 images"),
        (OK, [0, 1], "ab", ConfigError, r"\(1, 2\), labels \(2,\) and 2 classes"),
        (OK, [0], "abc", ConfigError, "3 classes do not fit"),
        ([0.5, 0.5], [0, 1], "ab", ConfigError, "do not fit"),
        (OK, [[0]], "ab", ConfigError, "do not fit"),
        (OK, [0], "aa", ConfigError, "'a' is named twice"),
        (OK, [2], "ab", DataError, r"label 2 is not one of 2 classes \(0 to 1\)"),
        (OK, [-1], "ab", DataError, "label -1"),
        (OK, [0.0], "ab", ConfigError, "float64"),
        ([[0.5, 0.5], [np.nan, 1]], [0, 1], "ab", DataError, "image 1 are not finite"),
        ([[np.inf, 0]], [0], "ab", DataError, "not finite"),
        ([[3.0, -2.0]], [0], "ab", ConfigError, "softmax"),
        ([[0.9, 0.9]], [0], "ab", ConfigError, "sums to 1.8"),
    ],
)
def test_mistakes_get_one_line(
    p: object, labels: object, classes: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        evaluate_predictions(p, labels, list(classes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_import_is_light() -> None:
    code = (
        "import sys, vitkit.evaluation.metrics; "
        "print([m for m in ('torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
