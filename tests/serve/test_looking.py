"""Routes that look into the model against the same in Python."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

import vitkit
from vitkit.explain.ablation import ablate
from vitkit.explain.around import around
from vitkit.explain.lens import lens
from vitkit.serve.looking import model_input

MODEL = {"name": "colours", "version": "1"}


@pytest.fixture
def image(colours: Path) -> Path:
    return colours / "red" / "00.png"


@pytest.fixture
def x(classifier: vitkit.Classifier, image: Path) -> torch.Tensor:
    return model_input(classifier, classifier.preprocess.fit(classifier.explain(image).image))


def refused(answer: Any) -> str:
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"
    return str(answer.json()["error"]["message"])


def test_explain(
    client: TestClient, classifier: vitkit.Classifier, image: Path, upload: Callable[..., Any]
) -> None:
    query = "method=gradcam&target=green&against=blue"
    answer = client.post(f"/explain?{query}", files=upload(image)).json()
    expected = classifier.explain(image, "gradcam", "green", against="blue")
    np.testing.assert_allclose(answer.pop("grid"), expected.grid, rtol=1e-5, atol=1e-9)
    assert answer == {
        "method": "gradcam",
        "target": "green",
        "against": "blue",
        "score": pytest.approx(expected.score),
        "signed": False,
        "image_size": [8, 8],
        "model": MODEL,
    }
    assert client.post("/explain", files=upload(image)).json()["method"] == "relevance"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("method=rolout", "did you mean 'rollout'?"),
        ("target=rad", "did you mean 'red'?"),
        ("target=red&against=red", "is the target itself"),
    ],
)
def test_explain_what_there_is_not(
    client: TestClient, image: Path, upload: Callable[..., Any], query: str, words: str
) -> None:
    answer = client.post(f"/explain?{query}", files=upload(image))
    assert words in refused(answer)


def unpacked(packed: dict[str, Any], heads: int) -> np.ndarray:
    """Weights of bytes in base64: (H, T)."""
    data = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(heads, -1)
    return data / 255 * np.array(packed["most"])[:, None]


@pytest.mark.parametrize(
    ("query", "at"),
    [("down=0.1&across=0.9", (0.1, 0.9)), ("token=CLS", "CLS"), ("", (0.5, 0.5))],
)
def test_attention(
    client: TestClient,
    classifier: vitkit.Classifier,
    image: Path,
    x: torch.Tensor,
    upload: Callable[..., Any],
    query: str,
    at: Any,
) -> None:
    answer = client.post(f"/attention?{query}", files=upload(image)).json()
    expected = around(classifier.model, x, at)
    assert answer["model"] == MODEL and len(answer["layers"]) == len(expected)
    for found, layer in zip(answer["layers"], expected, strict=True):
        assert (found["name"], found["token"]) == (layer.name, layer.token)
        assert (found["grid"], found["prefix"]) == (list(layer.grid), list(layer.prefix))
        for name in ("looks", "seen"):
            weights = getattr(layer, name)
            step = weights.max() / 255
            assert np.abs(unpacked(found[name], found["heads"]) - weights).max() <= 0.51 * step


def test_lens(
    client: TestClient,
    classifier: vitkit.Classifier,
    image: Path,
    x: torch.Tensor,
    upload: Callable[..., Any],
) -> None:
    answer = client.post("/lens?target=green", files=upload(image)).json()
    seen = lens(classifier.model, x, temperature=classifier.temperature)
    number = classifier.classes.index("green")
    assert answer["target"] == "green" and answer["model"] == MODEL
    share = next(s.score for s in classifier.predict(image)[0].topk if s.label == "green")
    assert answer["blocks"][-1]["target_score"] == pytest.approx(share, rel=1e-4)
    for i, block in enumerate(answer["blocks"]):
        shares = seen.read[0, i].softmax(dim=-1)
        assert block["label"] == classifier.classes[int(shares.argmax())]
        assert block["score"] == pytest.approx(float(shares.max()), rel=1e-5)
        assert block["target_score"] == pytest.approx(float(shares[number]), rel=1e-5)
        np.testing.assert_allclose(block["cells"], seen.maps(number)[0, i], rtol=1e-5)
    best = classifier.predict(image)[0].label
    assert client.post("/lens", files=upload(image)).json()["target"] == best


def test_ablate(
    client: TestClient,
    classifier: vitkit.Classifier,
    image: Path,
    x: torch.Tensor,
    upload: Callable[..., Any],
) -> None:
    answer = client.post("/ablate?cells=0.0,1.1&heads=0.1,0.0", files=upload(image)).json()
    effect = ablate(classifier.model, x, heads={0: [1, 0]}, cells=[(0, 0), (1, 1)])
    expected = {
        name: (float(whole), float(without))
        for name, whole, without in zip(
            classifier.classes,
            (effect.whole[0] / classifier.temperature).softmax(0),
            (effect.ablated[0] / classifier.temperature).softmax(0),
            strict=True,
        )
    }
    found = {each["label"]: (each["score"], each["without"]) for each in answer["classes"]}
    assert found.keys() == expected.keys()
    for name, pair in expected.items():
        assert found[name] == pytest.approx(pair, rel=1e-4)
    changes = [abs(each["without"] - each["score"]) for each in answer["classes"]]
    assert changes == sorted(changes, reverse=True) and changes[0] > 0
    nothing = client.post("/ablate", files=upload(image)).json()["classes"]
    assert all(each["without"] == pytest.approx(each["score"]) for each in nothing)


def test_rectangles(client: TestClient, image: Path, upload: Callable[..., Any]) -> None:
    whole, listed = (
        client.post(f"/ablate?cells={cells}", files=upload(image)).json()
        for cells in ("0.0:1.1", "0.0,0.1,1.0,1.1")
    )
    assert whole == listed
    assert whole["score"] == max(each["without"] for each in whole["classes"])
    one = client.post("/ablate?cells=0.0&topk=1", files=upload(image)).json()
    assert len(one["classes"]) == 1


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ("ablate?cells=1", "'1' is no pair"),
        ("ablate?cells=:", "':' is no pair"),
        ("ablate?cells=0.0:9999.9999", "larger than any image"),
        ("explain?methd=gradcam", "did you mean 'method'?"),
        ("attention?down=0.5", "needs both down and across"),
        ("attention?token=CLS&down=0.5&across=0.5", "has no place"),
        ("ablate?heads=a.b", "'a.b' is no pair"),
        ("ablate?cells=9.9", ""),
        ("ablate?heads=9.0", ""),
        ("attention?token=CSL", "did you mean 'CLS'?"),
        ("attention?down=1", "down: "),
        ("lens?target=rad", "did you mean 'red'?"),
    ],
)
def test_mistakes(
    client: TestClient, image: Path, upload: Callable[..., Any], route: str, words: str
) -> None:
    assert words in refused(client.post(f"/{route}", files=upload(image)))
