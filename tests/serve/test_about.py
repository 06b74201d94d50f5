"""What the server says of itself, and the files of its page."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import vitkit
from vitkit.data.transforms import Preprocess
from vitkit.explain.methods import METHODS, methods_for
from vitkit.explain.picture import VIRIDIS
from vitkit.explain.positions import position_similarity, relative_biases
from vitkit.serve.app import make_app
from vitkit.serve.samples import Sample

MODEL = {"name": "colours", "version": "1"}


def client_of(architecture: str, **settings: Any) -> TestClient:
    model = vitkit.create_model(architecture, num_classes=2, image_size=(32, 32), **settings)
    size = Preprocess(image_size=(32, 32))
    classifier = vitkit.Classifier(model.eval(), size, ["a", "b"], architecture=architecture)
    return TestClient(make_app(classifier, name="model"))


def test_about(client: TestClient, classifier: vitkit.Classifier) -> None:
    said = client.get("/about").json()
    assert said["model"] == MODEL and said["architecture"] == classifier.architecture
    assert said["classes"] == classifier.classes and said["image_size"] == [8, 8]
    assert said["parameters"] == sum(p.numel() for p in classifier.model.parameters())
    layer = {"name": "blocks.0.attn", "heads": 2, "grid": [2, 2], "prefix": ["CLS"]}
    assert said["layers"] == [layer] and said["cell"] == 4
    assert [m["name"] for m in said["methods"]] == list(methods_for(classifier.model))
    assert [m["name"] for m in said["methods"] if m["costly"]] == [
        name for name, method in METHODS.items() if method.costly
    ]
    assert said["colours"]["plain"] == [list(rgb) for rgb in VIRIDIS]
    assert said["samples"] == []


def test_about_a_cnn() -> None:
    with client_of("resnet18", dim=8) as client:
        said = client.get("/about").json()
        assert said["layers"] == [] and said["default_method"] == "gradcam"
        assert "rollout" not in [m["name"] for m in said["methods"]]
        places = client.get("/positions").json()
        assert places["kind"] == "none" and "no position embeddings" in places["why"]


def picture(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_positions(client: TestClient, classifier: vitkit.Classifier) -> None:
    said = client.get("/positions").json()
    known = position_similarity(classifier.model, (8, 8))
    assert said["kind"] == "embeddings" and said["learned"] and said["grid"] == [2, 2]
    assert said["score"] == pytest.approx(known.layout().score)
    assert (picture(said["pictures"][0]["png"]) == known.picture()).all()


def test_positions_of_swin() -> None:
    with client_of(
        "swin_tiny_patch4_window7_224", dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4
    ) as client:
        said = client.get("/positions").json()
        biases = relative_biases(client.app.state.server.first.model)  # type: ignore[attr-defined]
        assert said["kind"] == "biases" and len(said["pictures"]) == 4
        for given, bias in zip(said["pictures"], biases, strict=True):
            assert given["name"] == bias.name
            assert (picture(given["png"]) == bias.picture()).all()


def test_samples(classifier: vitkit.Classifier) -> None:
    samples = [Sample("x.png", "red", b"one"), Sample("y.png", "", b"two")]
    with TestClient(make_app(classifier, name="colours", samples=samples)) as client:
        assert client.get("/about").json()["samples"] == [
            {"name": "x.png", "label": "red"},
            {"name": "y.png", "label": ""},
        ]
        answer = client.get("/samples/1")
        assert answer.content == b"two" and answer.headers["content-type"] == "image/png"
        assert client.get("/samples/2").json()["error"]["code"] == "not_found"


def test_view_is_what_the_model_sees(
    client: TestClient, classifier: vitkit.Classifier, colours: Path, upload: Any
) -> None:
    image = colours / "green" / "00.png"
    answer = client.post("/view", files=upload(image))
    assert answer.headers["content-type"] == "image/png"
    seen = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert (seen == classifier.explain(image).image).all()
    for route in ("predict", "explain", "attention", "lens", "ablate?cells=0.1", "embed"):
        mark = "&" if "?" in route else "?"
        whole = client.post(f"/{route}", files=upload(image)).json()
        fitted = client.post(f"/{route}{mark}fitted=true", files=upload(answer.content)).json()
        assert fitted == whole
    error = client.post("/predict?fitted=true", files=upload(image)).json()["error"]
    assert error["code"] == "invalid_request" and "8 x 8 pixels, not 10 x 12" in error["message"]


def test_view_in_grey(upload: Any, colours: Path) -> None:
    grey = Preprocess(image_size=(32, 32), mean=(0.5,), std=(0.5,))
    model = vitkit.create_model(
        "resnet18", num_classes=2, image_size=(32, 32), in_channels=1, dim=8
    )
    classifier = vitkit.Classifier(model.eval(), grey, ["a", "b"], architecture="resnet18")
    image = colours / "green" / "00.png"
    with TestClient(make_app(classifier, name="grey")) as client:
        seen = client.post("/view", files=upload(image)).content
        fitted = client.post("/predict?fitted=true", files=upload(seen)).json()
        assert fitted == client.post("/predict", files=upload(image)).json()


def test_page(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for name in ("page.js", "page.css", "chart.css", "stage.js"):
        file = client.get(f"/page/{name}")
        assert file.status_code == 200 and file.text.strip()
        assert file.headers["x-content-type-options"] == "nosniff"
        again = client.get(f"/page/{name}", headers={"if-none-match": file.headers["etag"]})
        assert again.status_code == 304 and not again.content
    for name in ("..%2Fapp.py", "no.js", "%2e%2e/%2e%2e/errors.py"):
        assert client.get(f"/page/{name}").status_code == 404


def test_every_file_of_the_page_is_asked_for(client: TestClient) -> None:
    files = {"/page/page.js", "/page/page.css", "/page/chart.css"}
    waiting = list(files)
    while waiting:
        text = client.get(waiting.pop()).text
        found = {f"/page/{name}" for name in re.findall(r'from "\./([\w.]+)"', text)}
        waiting += found - files
        files |= found
    folder = Path(vitkit.__file__).parent / "serve" / "browser"
    assert files == {
        f"/page/{path.name}" for path in folder.iterdir() if path.suffix != ".html"
    } | {"/page/chart.css"}


def test_a_token_guards_what_is_said_and_not_the_page(classifier: vitkit.Classifier) -> None:
    with TestClient(make_app(classifier, name="colours", token="12345678")) as client:
        assert client.get("/").status_code == 200
        for path in ("/about", "/positions", "/samples/0"):
            assert client.get(path).status_code == 401
        right = {"authorization": "Bearer 12345678"}
        assert client.get("/about", headers=right).status_code == 200
