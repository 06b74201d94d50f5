"""The HTTP API against the same classifier in Python."""

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

import vitkit
from browsing import serving
from vitkit.data.image import decode
from vitkit.serve.app import make_app
from vitkit.serve.batcher import Full
from vitkit.serve.refused import Refused
from vitkit.serve.settings import Limits

MODEL = {"name": "colours", "version": "1"}


@pytest.fixture
def image(colours: Path) -> Path:
    return colours / "red" / "00.png"


def refused(answer: Any, status: int, code: str) -> str:
    """The message of an error that has the documented form."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error"] and set(body["error"]) == {"code", "message", "request_id"}
    assert body["error"]["code"] == code
    assert body["error"]["request_id"] == answer.headers["x-request-id"]
    message = body["error"]["message"]
    assert "\n" not in message and not re.search(r"(?<!\S)/(?!openapi)", message)  # no paths
    return str(body["error"]["message"])


def tensor(datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    """A request of the protocol with one tensor."""
    return {"inputs": [{"name": "images", "datatype": datatype, "shape": shape, "data": data}]}


def test_predict(
    client: TestClient, classifier: vitkit.Classifier, image: Path, upload: Callable[..., Any]
) -> None:
    answer = client.post("/predict?topk=2", files=upload(image))
    expected = classifier.predict(image, topk=2)[0]
    assert answer.status_code == 200
    assert answer.json() == {
        "label": expected.label,
        "score": pytest.approx(expected.score),
        "topk": [{"label": s.label, "score": pytest.approx(s.score)} for s in expected.topk],
        "model": MODEL,
    }
    raw = client.post(
        "/predict?topk=2", content=image.read_bytes(), headers={"content-type": "image/png"}
    )
    assert raw.json() == answer.json()


def test_embed(
    client: TestClient, classifier: vitkit.Classifier, image: Path, upload: Callable[..., Any]
) -> None:
    answer = client.post("/embed", files=upload(image)).json()
    np.testing.assert_allclose(answer["embedding"], classifier.embed(image)[0], rtol=1e-5)
    assert answer["model"] == MODEL


@pytest.mark.parametrize(
    ("data", "status", "code", "words"),
    [
        (b"", 415, "not_an_image", "the file is empty"),
        (b"hello, world", 415, "not_an_image", "it looks like text"),
        (b"<svg xmlns='x'/>", 415, "not_an_image", "it looks like SVG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), 422, "unreadable_image", ""),
    ],
)
def test_what_is_no_image(
    client: TestClient,
    upload: Callable[..., Any],
    data: bytes,
    status: int,
    code: str,
    words: str,
) -> None:
    assert words in refused(client.post("/predict", files=upload(data)), status, code)


def test_forms_without_an_image(client: TestClient, image: Path) -> None:
    answer = client.post("/predict", files={"picture": ("x", image.read_bytes())})
    assert "no file in a field 'image'" in refused(answer, 400, "invalid_request")
    answer = client.post("/predict", data={"image": "text"}, files={"x": b""})
    assert "no file in a field 'image'" in refused(answer, 400, "invalid_request")
    refused(client.post("/predict", json={}), 415, "not_an_image")
    refused(client.post("/predict"), 415, "not_an_image")
    broken = {"content-type": "multipart/form-data"}
    refused(client.post("/predict", content=b"abc", headers=broken), 400, "invalid_request")


def test_a_form_of_ten_thousand_parts(client: TestClient) -> None:
    files = [("image", (f"{i}.png", b"x")) for i in range(10_000)]
    refused(client.post("/predict", files=files), 400, "invalid_request")


def test_wrong_queries(client: TestClient, image: Path, upload: Callable[..., Any]) -> None:
    for query in ("topk=0", "topk=x", "topk=1001"):
        message = refused(
            client.post(f"/predict?{query}", files=upload(image)), 400, "invalid_request"
        )
        assert message.startswith("topk: ")


def test_too_large(classifier: vitkit.Classifier, image: Path, upload: Callable[..., Any]) -> None:
    limits = Limits(megabytes=0.001)
    with TestClient(make_app(classifier, name="colours", limits=limits)) as client:
        refused(client.post("/predict", files=upload(bytes(2000))), 413, "too_large")

        def pieces() -> Any:  # without content-length
            yield from [bytes(300)] * 5

        headers = {"content-type": "image/png"}
        refused(client.post("/predict", content=pieces(), headers=headers), 413, "too_large")
        assert client.post("/predict", files=upload(image)).status_code == 200


def test_too_many_pixels(
    classifier: vitkit.Classifier, image: Path, upload: Callable[..., Any]
) -> None:
    limits = Limits(megapixels=0.00003)
    with TestClient(make_app(classifier, name="colours", limits=limits)) as client:
        refused(client.post("/predict", files=upload(image)), 422, "unreadable_image")


def test_busy(client: TestClient, image: Path, upload: Callable[..., Any]) -> None:
    server = client.app.state.server  # type: ignore[attr-defined]
    server.inside = server.limits.waiting
    answer = client.post("/predict", files=upload(image))
    refused(answer, 429, "busy")
    assert answer.headers["retry-after"] == "1"
    server.inside = 0
    assert client.post("/predict", files=upload(image)).status_code == 200


def test_a_full_batcher_is_busy_too(
    client: TestClient, image: Path, upload: Callable[..., Any], monkeypatch
) -> None:
    async def ask(pixels: Any) -> Any:
        raise Full(7)

    monkeypatch.setattr(client.app.state.server.stage.served, "probabilities", ask)  # type: ignore[attr-defined]
    answer = client.post("/predict", files=upload(image))
    refused(answer, 429, "busy")
    assert answer.headers["retry-after"] == "7"


def test_a_defect_of_ours_shows_no_traceback(
    client: TestClient, image: Path, upload: Callable[..., Any], monkeypatch, caplog
) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(client.app.state.server.stage.served, "_answer", broken)  # type: ignore[attr-defined]
    client.app.state.server.stage.served._many.run = broken  # type: ignore[attr-defined]
    answer = client.post("/predict", files=upload(image))
    refused(answer, 500, "failed")
    assert "/secret/path" in caplog.text and answer.headers["x-request-id"] in caplog.text


def test_request_ids(client: TestClient) -> None:
    given = client.get("/v2", headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    for bad in ("x" * 65, "a b", "<script>"):
        made = client.get("/v2", headers={"x-request-id": bad}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{16}", made)


def test_headers_keep_browsers_safe(client: TestClient) -> None:
    for path in ("/v2", "/nowhere"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")


def test_addresses_that_there_are_not(client: TestClient) -> None:
    refused(client.get("/nowhere"), 404, "not_found")
    refused(client.get("/predict"), 405, "method_not_allowed")


def test_the_token(classifier: vitkit.Classifier, image: Path, upload: Callable[..., Any]) -> None:
    with TestClient(make_app(classifier, name="colours", token="s3cret")) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
            answer = client.post("/predict", files=upload(image), headers=headers)
            refused(answer, 401, "unauthorised")
            assert answer.headers["www-authenticate"] == "Bearer"
        headers = {"authorization": "Bearer s3cret"}
        assert client.post("/predict", files=upload(image), headers=headers).status_code == 200
        assert client.get("/v2/health/live").status_code == 200


def test_metrics(client: TestClient, image: Path, upload: Callable[..., Any]) -> None:
    for _ in range(3):
        client.post("/predict", files=upload(image))
    client.post("/predict", files=upload(b"text"))
    client.get("/nowhere/at/all")
    text = client.get("/metrics").text
    assert 'vitkit_requests_total{route="/predict",status="200"} 3.0' in text
    assert 'vitkit_requests_total{route="/predict",status="415"} 1.0' in text
    assert 'vitkit_requests_total{route="unknown",status="404"} 1.0' in text
    assert "vitkit_batch_size_count 3.0" in text and "vitkit_waiting 0.0" in text


class TestProtocol:
    def test_health_and_metadata(self, client: TestClient) -> None:
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/v2").json()["name"] == "vitkit"
        assert client.get("/v2/models/colours/ready").json() == {**MODEL, "ready": True}
        about = client.get("/v2/models/colours/versions/1").json()
        assert about["versions"] == ["1"] and about["platform"] == "vitkit_vit_tiny_patch16_224"
        assert [o["name"] for o in about["outputs"]] == ["probabilities", "labels"]
        refused(client.get("/v2/models/others"), 404, "not_found")
        refused(client.get("/v2/models/colours/versions/2"), 404, "not_found")

    def test_files_and_pixels_have_the_same_answer(
        self, client: TestClient, classifier: vitkit.Classifier, colours: Path
    ) -> None:
        files = sorted(colours.rglob("0[01].png"))
        texts = [base64.b64encode(file.read_bytes()).decode() for file in files]
        pixels = np.stack([decode(file.read_bytes()) for file in files])
        bodies = (
            tensor("BYTES", [6], texts),
            tensor("UINT8", list(pixels.shape), pixels.tolist()),
            tensor("UINT8", list(pixels.shape), pixels.ravel().tolist()),
        )
        address = "/v2/models/colours/infer"
        answers = [client.post(address, json={"id": "7", **body}) for body in bodies]
        expected = classifier.predict(files, topk=1)
        for answer in answers:
            body = answer.json()
            assert (body["id"], body["model_name"], body["model_version"]) == ("7", "colours", "1")
            shares, labels = body["outputs"]
            assert shares["shape"] == [6, 3] and labels["shape"] == [6]
            assert labels["data"] == [p.label for p in expected]
            best = np.reshape(shares["data"], (6, 3)).max(axis=1)
            np.testing.assert_allclose(best, [p.score for p in expected], rtol=1e-5)

    def test_only_what_is_wanted(self, client: TestClient, image: Path) -> None:
        text = base64.b64encode(image.read_bytes()).decode()
        body = {**tensor("BYTES", [1], [text]), "outputs": [{"name": "labels"}]}
        answer = client.post("/v2/models/colours/versions/1/infer", json=body).json()
        assert [o["name"] for o in answer["outputs"]] == ["labels"] and "id" not in answer

    @pytest.mark.parametrize(
        "body",
        [
            [],
            {},
            {"inputs": []},
            {"inputs": [1]},
            {"inputs": [{"name": "x"}]},
            tensor("UINT8", [1, 2, 2, 3], [1]),
            tensor("UINT8", [1, 1, 1, 3], [1, 2, 256]),
            tensor("UINT8", [1, 1, 1, 3], [1, 2, 0.5]),
            tensor("UINT8", [1, 1, 1, 3], [[1], 2, 3]),
            tensor("UINT8", [10**9] * 3 + [3], [1]),
            tensor("UINT8", [True, 1, 1, 3], [1, 2, 3]),
            tensor("UINT8", [], []),
            tensor("FP32", [1, 1, 1, 3], [1, 2, 3]),
            tensor("BYTES", [2], ["YQ=="]),
            tensor("BYTES", [1], ["?"]),
            tensor("BYTES", [1], [1]),
            tensor("BYTES", [65], ["YQ=="] * 65),
            {**tensor("BYTES", [1], ["YQ=="]), "outputs": [{"name": "x"}]},
            {**tensor("BYTES", [1], ["YQ=="]), "outputs": 1},
        ],
    )
    def test_wrong_requests(self, client: TestClient, body: Any) -> None:
        refused(client.post("/v2/models/colours/infer", json=body), 400, "invalid_request")

    def test_bodies_that_are_no_json(self, client: TestClient) -> None:
        for content in (b"", b"{", b"[" * 100_000, b"\xff"):
            answer = client.post("/v2/models/colours/infer", content=content)
            refused(answer, 400, "invalid_request")


def test_the_model_changes_on_request(
    classifier: vitkit.Classifier, image: Path, upload: Callable[..., Any], tmp_path: Path
) -> None:
    import torch

    other = vitkit.load(classifier.origin or "")
    with torch.no_grad():
        other.model.get_submodule("head").bias.add_(torch.tensor([9.0, 0.0, 0.0]))
    other.save(tmp_path / "new")
    address = "/v2/repository/models/colours/load"
    body = {"parameters": {"checkpoint": str(tmp_path / "new")}}
    headers = {"authorization": "Bearer t"}
    with TestClient(make_app(classifier, name="colours", token="t")) as client:
        refused(client.post(address, json=body), 401, "unauthorised")
        assert client.post(address, json=body, headers=headers).json() == {**MODEL, "version": "2"}
        answer = client.post("/predict", files=upload(image), headers=headers).json()
        assert answer["label"] == "blue" and answer["model"]["version"] == "2"
        for wrong in ({}, {"parameters": {"checkpoint": "nowhere"}}, [1]):
            refused(client.post(address, json=wrong, headers=headers), 400, "invalid_request")
        assert client.get("/v2/models/colours/versions/2").status_code == 200
        nobody = address.replace("colours", "x")
        refused(client.post(nobody, json=body, headers=headers), 404, "not_found")


def test_without_a_token_the_model_stays(client: TestClient) -> None:
    body = {"parameters": {"checkpoint": "x"}}
    answer = client.post("/v2/repository/models/colours/load", json=body)
    refused(answer, 403, "forbidden")


def test_the_description(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert json.dumps(described)
    assert {"/predict", "/embed", "/explain", "/metrics", "/v2/models/{name}/infer"} <= set(
        described["paths"]
    )
    responses = described["paths"]["/predict"]["post"]["responses"]
    assert {"200", "400", "401", "408", "413", "415", "422", "429", "500", "503", "504"} == set(
        responses
    )


def test_only_own_names_are_answered_to(classifier: vitkit.Classifier) -> None:
    app = make_app(classifier, name="colours", hosts=("127.0.0.1", "[::1]"))
    with TestClient(app) as client:
        for host in ("127.0.0.1:8000", "[::1]:80", "127.0.0.1"):
            assert client.get("/v2", headers={"host": host}).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example", ""):
            refused(client.get("/v2", headers={"host": host}), 400, "invalid_request")


def test_options_in_the_form_are_not_passed_over(
    client: TestClient, image: Path, upload: Callable[..., Any]
) -> None:
    answer = client.post("/explain", files=upload(image), data={"method": "gradcam"})
    assert "a field 'method'; options go into the address" in refused(
        answer, 400, "invalid_request"
    )


@pytest.mark.parametrize(
    ("site", "mode", "path", "status"),
    [
        ("cross-site", "no-cors", "/predict", 400),
        ("same-site", "cors", "/predict", 400),
        ("cross-site", "navigate", "/predict", 400),
        ("same-origin", "cors", "/predict", 200),
        ("none", "cors", "/predict", 200),
        ("cross-site", "no-cors", "/positions", 400),
        ("cross-site", "navigate", "/", 200),
    ],
)
def test_what_pages_of_others_ask_for(
    client: TestClient,
    image: Path,
    upload: Callable[..., Any],
    site: str,
    mode: str,
    path: str,
    status: int,
) -> None:
    dest = "document" if mode == "navigate" else "empty"
    headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
    if path == "/predict":
        answer = client.post(path, files=upload(image), headers=headers)
    else:
        answer = client.get(path, headers=headers)
    assert answer.status_code == status


def test_an_upload_keeps_its_model_when_that_changes(
    classifier: vitkit.Classifier, finished: vitkit.Run, image: Path
) -> None:
    token = "12345678"
    right = {"authorization": f"Bearer {token}"}
    data = image.read_bytes()
    with serving(make_app(classifier, name="colours", token=token)) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            slow.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
                b"Connection: close\r\nAuthorization: Bearer 12345678\r\n"
                b"Content-Length: %d\r\n\r\n" % len(data) + data[:10]
            )
            time.sleep(0.3)
            changed = httpx.post(
                f"{address}/v2/repository/models/colours/load",
                json={"parameters": {"checkpoint": str(finished.directory)}},
                headers=right,
                timeout=30,
            )
            assert changed.json()["version"] == "2"
            slow.sendall(data[10:])
            answer = b"".join(iter(lambda: slow.recv(65536), b""))
        assert b"200 OK" in answer and b'"version":"1"' in answer
        new = httpx.post(f"{address}/predict", content=data, headers=right | {
            "content-type": "image/png"}, timeout=30)  # fmt: skip
        assert new.json()["model"]["version"] == "2"


def test_bodies_that_wait_have_a_bound(classifier: vitkit.Classifier) -> None:
    limits = Limits(megabytes=1, waiting_megabytes=1.5)
    with TestClient(make_app(classifier, name="colours", limits=limits)) as client:
        server = client.app.state.server  # type: ignore[attr-defined]
        with server.room() as one, server.room() as other:
            one(1_000_000)
            other(400_000)
            with pytest.raises(Refused, match="too many bytes wait"):
                other(200_000)
        assert server.bytes == 0
        with server.room() as alone:
            alone(2_000_000)  # who is alone may bring what limits of its own allow
        assert server.bytes == 0


def test_what_takes_long_does_not_hold_up_a_look(
    client: TestClient, image: Path, upload: Callable[..., Any], monkeypatch
) -> None:
    held, going = threading.Event(), threading.Event()
    slow = client.app.state.server.stage.served._long  # type: ignore[attr-defined]
    run = slow.run

    def waits(several: Any) -> Any:
        going.set()
        assert held.wait(30)
        return run(several)

    monkeypatch.setattr(slow, "run", waits)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/explain?method=occlusion", files=upload(image))
        assert going.wait(30)
        assert client.post("/explain?method=relevance", files=upload(image)).status_code == 200
        held.set()
        assert first.result().json()["method"] == "occlusion"


def test_no_more_images_than_may_wait(classifier: vitkit.Classifier) -> None:
    pixels = tensor("UINT8", [3, 1, 1, 3], [0] * 9)
    app = make_app(classifier, name="colours", limits=Limits(waiting=2))
    with TestClient(app) as client:
        answer = client.post("/v2/models/colours/infer", json=pixels)
    assert "may have 2 images, not 3" in refused(answer, 400, "invalid_request")
