"""Uploads that mean harm."""

import base64
import io
import json
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import vitkit
from vitkit.data.image import decode
from vitkit.serve.app import make_app
from vitkit.serve.settings import Limits

SCRIPT = "<script>alert(1)</script>"
TAG = "<img src=x onerror=alert(1)>"
ZEROS = 100_000_000  # bytes that a bomb unpacks to
FORM = {"content-type": "multipart/form-data; boundary=limit"}
SECONDS = 10  # that no upload may take, on a busy machine


@pytest.fixture(scope="module")
def server(classifier: vitkit.Classifier) -> Iterator[TestClient]:
    """One for all tests: each finds it as those before left it."""
    with TestClient(make_app(classifier, name="colours"), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture(scope="module")
def documented(server: TestClient) -> set[int]:
    """What `/predict` says that it may answer, defects of ours aside."""
    described = server.get("/openapi.json").json()["paths"]["/predict"]["post"]["responses"]
    return set(map(int, described)) - {500}


def send(server: TestClient, data: bytes, name: str = "x.png") -> Any:
    return server.post("/predict", files={"image": (name, data, "image/png")})


def refused(answer: Any, *statuses: int) -> str:
    """The message of an error in the documented form, safe to be shown anywhere."""
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    error = answer.json()["error"]
    assert error.keys() == {"code", "message", "request_id"}
    message = str(error["message"])
    assert message.isprintable() and "Traceback" not in message
    assert not re.search(r"(?<!\S)/(?!openapi)|site-packages|\.py\b", message)  # no paths
    return message


def kilobytes(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


@contextmanager
def in_megabytes(most: int) -> Iterator[None]:
    """The memory of this process, server included, never grows by more meanwhile."""
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        pytest.skip("only Linux tells the most memory that a process had since a moment")
    peak.write_text("5")
    before = kilobytes("VmRSS")
    yield
    assert (kilobytes("VmHWM") - before) / 1000 < most


def encoded(form: str, side: int = 40, **options: Any) -> bytes:
    """Noise, which does not pack."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """Zeros, packed a thousandfold."""
    packer = zlib.compressobj(9)
    piece = bytes(1_000_000)
    packed = [packer.compress(piece) for _ in range(ZEROS // len(piece))]
    return b"".join([*packed, packer.flush()])


BOMB = bomb()


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    """A grey PNG file of 8 bits with further chunks, its pixels packed as `data`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in ((b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + content))
        parts.append(struct.pack(">I", len(content)) + name + content + check)
    return b"".join(parts)


def webp(width: int, height: int) -> bytes:
    """A WebP file of a large canvas and nothing on it."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def tiff(width: int, height: int, data: bytes = b"") -> bytes:
    """A grey TIFF file of one strip, its pixels packed by deflate as `data`."""
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: height}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.append(struct.pack("<HHII", 279, 4, 1, len(data)))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def jpeg(width: int, height: int) -> bytes:
    """A small JPEG file that says it is large."""
    data = encoded("jpeg")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def rows(width: int, height: int) -> bytes:
    """Packed pixels of a black PNG file."""
    return zlib.compress(bytes((width + 1) * height))


@pytest.mark.parametrize(
    "data",
    [
        png(30_000, 30_000),
        png(2**31 - 1, 2**31 - 1),
        png(10_000, 10_000, data=BOMB),  # all of it is there
        webp(2**24, 2**24),
        webp(16_384, 16_384),
        tiff(60_000, 60_000),
        jpeg(65_500, 65_500),
        b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b",",
        b"BM" + bytes(8) + struct.pack("<IIiiHHIIIIII", 54, 40, 60_000, 60_000, 1, 24, *[0] * 6),
    ],
    ids=["png", "png-most", "png-whole", "webp-most", "webp", "tiff", "jpeg", "gif", "bmp"],
)
def test_a_small_file_of_many_pixels(server: TestClient, data: bytes) -> None:
    assert len(data) < 200_000
    begun = time.perf_counter()
    with in_megabytes(20):
        message = refused(send(server, data), 422)
    assert "pixels are over max_pixels=50,000,000" in message or data[:3] == b"GIF"
    assert time.perf_counter() - begun < SECONDS


@pytest.mark.parametrize(
    "data",
    [
        png(8, 8, data=BOMB),
        png(8, 8, (b"iCCP", b"x\0\0" + BOMB), data=rows(8, 8)),
        png(8, 8, (b"zTXt", b"x\0\0" + BOMB), data=rows(8, 8)),
        png(8, 8, (b"iTXt", b"x\0\1\0\0\0" + BOMB), data=rows(8, 8)),
        tiff(8, 8, BOMB),
    ],
    ids=["pixels", "profile", "text", "other-text", "tiff"],
)
def test_a_small_file_that_unpacks_to_much(server: TestClient, data: bytes) -> None:
    begun = time.perf_counter()
    with in_megabytes(30):
        answer = send(server, data)
    assert time.perf_counter() - begun < SECONDS
    assert answer.status_code == 200 or refused(answer, 422)


def test_a_bomb_in_base64(server: TestClient) -> None:
    text = base64.b64encode(png(30_000, 30_000, data=BOMB)).decode()
    tensor = {"name": "images", "datatype": "BYTES", "shape": [8], "data": [text] * 8}
    with in_megabytes(60):
        refused(server.post("/v2/models/colours/infer", json={"inputs": [tensor]}), 422)


@pytest.mark.parametrize(
    "data",
    [
        ["x" * 100_000, *["x"] * 2000],  # as an array, each text would be as long as the longest
        [0, *["x" * 100_000] * 20],
        [[0] * 100_000, [0]],
        [10**400],
        [[[[0]]]] * 50_000,
        [{"a": [0]}] * 50_000,
        [None] * 50_000,
    ],
    ids=["texts", "mixed", "uneven", "huge", "deep", "objects", "nulls"],
)
def test_data_that_are_no_pixels(server: TestClient, data: Any) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": data}
    content = json.dumps({"inputs": [tensor]})
    with in_megabytes(100):
        answer = server.post("/v2/models/colours/infer", content=content)
    refused(answer, 400)


def test_an_id_that_is_no_text(server: TestClient) -> None:
    text = base64.b64encode(encoded("png")).decode()
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [text]}
    content = json.dumps({"id": "\ud800", "inputs": [tensor]})  # half of a pair, in ASCII
    answer = server.post("/v2/models/colours/infer", content=content)
    assert answer.status_code == 200 or refused(answer, 400)


@pytest.mark.parametrize(
    "name",
    [
        "a\0b",
        "\ud800",
        "a" * 10_000,
        "../" * 1000,
        "/dev/zero",
        "/proc/self/mem",
        ".",
    ],
)
def test_names_of_checkpoints(
    classifier: vitkit.Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content = json.dumps({"parameters": {"checkpoint": name}})
    headers = {"authorization": "Bearer t0ken"}
    address = "/v2/repository/models/colours/load"
    app = make_app(classifier, name="colours", token="t0ken")
    begun = time.perf_counter()
    with TestClient(app, raise_server_exceptions=False) as server, in_megabytes(50):
        answer = server.post(address, content=content, headers=headers)
        assert refused(answer, 400).startswith("the checkpoint cannot be opened")
        assert send(server, encoded("png")).status_code == 401
    assert time.perf_counter() - begun < SECONDS


def test_an_image_that_takes_too_long(
    classifier: vitkit.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*given: Any, **more: Any) -> Any:
        time.sleep(1)
        return decode(*given, **more)

    monkeypatch.setattr("vitkit.serve.served.decode", slow)
    app = make_app(classifier, name="colours", limits=Limits(seconds=0.2))
    with TestClient(app) as server:
        refused(send(server, encoded("png")), 504)


@pytest.mark.parametrize("start", ["", "\ufeff", " \n<!-- -->", '<?xml version="1.0"?>\n'])
def test_svg(server: TestClient, start: str) -> None:
    data = f'{start}<svg xmlns="http://www.w3.org/2000/svg">{SCRIPT}</svg>'.encode()
    for answer in (
        send(server, data, "x.svg"),
        server.post("/predict", content=data, headers={"content-type": "image/svg+xml"}),
    ):
        assert "it looks like SVG" in refused(answer, 415)
        assert "script" not in answer.text


def test_comments_are_never_sent_back(server: TestClient) -> None:
    exif = Image.Exif()
    exif[0x010E] = exif[0x9286] = SCRIPT  # what it shows, and what its user says
    plain, told = encoded("jpeg"), encoded("jpeg", exif=exif, comment=SCRIPT.encode())
    assert told.count(SCRIPT.encode()) == 3
    answer = send(server, told, f"{SCRIPT}.jpg")
    assert answer.status_code == 200 and answer.json() == send(server, plain).json()
    assert "script" not in answer.text + str(answer.headers)
    assert "script" not in refused(send(server, told[:-200]), 422)


@pytest.mark.parametrize("route", ["predict", "embed", "explain", "lens", "attention", "ablate"])
def test_files_that_are_two_things(server: TestClient, route: str) -> None:
    code = b"*/=1;alert(1)//<script>alert(1)</script>"
    whole = encoded("gif")
    for data, statuses in (
        (b"GIF89a/*" + code, (422,)),  # a script whose first word is GIF89a
        (whole[:6] + b"/*" + whole[8:] + code, (200, 422)),
        (whole + code, (200,)),
        (encoded("jpeg") + b"PK\x03\x04" + code, (200,)),  # an archive, to who reads the end
        (b"\xff\xd8\xff" + b"<?php " + code, (422,)),
    ):
        answer = server.post(f"/{route}", files={"image": ("x.js", data, "text/javascript")})
        assert answer.status_code in statuses
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "alert" not in answer.text


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "gif", "bmp", "tiff"])
def test_truncated(server: TestClient, form: str) -> None:
    data = encoded(form)
    assert send(server, data).status_code == 200
    for eighths in range(1, 8):
        refused(send(server, data[: len(data) * eighths // 8]), 422)


def part(name: str = "image", *, file: str = "x", headers: bytes = b"", data: bytes = b"") -> bytes:
    """One part of a form, between limits."""
    return (
        f'--limit\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n'.encode()
        + headers
        + b"\r\n"
        + data
        + b"\r\n"
    )


TEXT_PART = b'--limit\r\nContent-Disposition: form-data; name="x"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        ((TEXT_PART + b"x\r\n") * 10_000, {400}),
        (part("x") * 10_000, {400}),
        (part("x", headers=b"X-A: b\r\n" * 100_000), {400}),
        (part("x", headers=b"X-A: " + b"b" * 1_000_000 + b"\r\n"), {400}),
        (part("x", headers=b"X" * 1_000_000 + b": b\r\n"), {400}),
        (part("n" * 1_000_000), {400}),
        (part(file="f" * 1_000_000), {400}),
        (TEXT_PART + b"x" * 2_000_000 + b"\r\n", {400}),
        (TEXT_PART + b"x" * 21_000_000 + b"\r\n", {413}),
        (b"--limit\r\n" * 200_000, {400}),
        (b"\r\n" * 1_000_000, {200, 400}),
        (b"--limi\r" * 1_000_000, {400}),
        (TEXT_PART + b"\r\n--limi" * 100_000 + b"\r\n", {200, 400}),
        (part("x", data=b"\r\n--limi" * 500_000), {400}),
    ],
    ids=[
        *("fields", "files", "headers", "value", "header", "name", "file-name", "text", "body"),
        *("limits", "lines", "near-limits", "near-limits-in-text", "near-limits-in-file"),
    ],
)
def test_huge_forms(server: TestClient, body: bytes, statuses: set[int]) -> None:
    image = part(data=encoded("png")) + b"--limit--\r\n"  # it would be answered but for the rest
    begun = time.perf_counter()
    with in_megabytes(100):
        answer = server.post("/predict", content=body + image, headers=FORM)
    assert time.perf_counter() - begun < SECONDS
    assert answer.status_code == 200 or refused(answer, *statuses)
    assert answer.status_code in statuses


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=limit", part(data=b"abc")),  # never closed
        ("multipart/form-data; boundary=other", part() + b"--limit--\r\n"),
        ("multipart/form-data; boundary=", part() + b"--limit--\r\n"),
        ("multipart/form-data; boundary", part() + b"--limit--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 10_000, b"--" + b"b" * 10_000 + b"--\r\n"),
        ('multipart/form-data; boundary="limit', part() + b"--limit-\r\n"),
        ("multipart/form-data; boundary=\xe9", part()),
        ("multipart/form-data; boundary=limit; charset=zip", part("other") + b"--limit--\r\n"),
        ("multipart/form-data; boundary=limit", b""),
        ("multipart/form-data; boundary=limit", b"--limit--\r\n"),
        ("multipart/form-data; boundary=limit", b"--limit\r\n\r\nabc\r\n--limit--\r\n"),
        ("multipart/form-data; boundary=limit", b"--limit\r\n\0: \0\r\n\r\n\r\n--limit--\r\n"),
        ("multipart/form-data; boundary=limit", part().replace(b"\r\n", b"\n") + b"--limit--\n"),
        ("multipart/form-data; boundary=limit", part("image\0") + b"--limit--\r\n"),
        (
            "multipart/form-data; boundary=limit",
            part().replace(b"image", b"\xff") + b"--limit--\r\n",
        ),
        ("multipart/form-data; boundary=limit", b"\0" * 100),
    ],
)
@pytest.mark.filterwarnings(  # Starlette leaves the file of a part without an end to Python
    "ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning"
)
def test_broken_forms(server: TestClient, content_type: str, body: bytes) -> None:
    headers = {b"content-type": content_type.encode("latin-1")}
    refused(server.post("/predict", content=body, headers=headers), 400)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..\\..\\boot.ini", "/etc/shadow", "C:\\x", "a\0b", ".", "", f"{TAG}.png"],
)
def test_file_names_mean_nothing(
    server: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    data = encoded("png", 700)
    assert len(data) > 1_000_000  # which a form keeps on the disk
    body = part(file=name or "x", data=data) + b"--limit--\r\n"
    answer = server.post("/predict", content=body, headers=FORM)
    assert answer.status_code == 200 and answer.json() == send(server, data).json()
    assert "etc" not in answer.text and TAG not in answer.text
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_names_of_classes_are_data(classifier: vitkit.Classifier) -> None:
    names = [TAG, f"\"'</script>{SCRIPT}", "a\r\nset-cookie: a=b"]
    other = vitkit.load(classifier.origin or "")
    other.classes = names
    data = encoded("png")
    with TestClient(make_app(other, name="colours")) as server:
        tensor = {"name": "images", "datatype": "BYTES", "shape": [1]}
        tensor["data"] = [base64.b64encode(data).decode()]
        answers = [
            send(server, data),
            server.post("/v2/models/colours/infer", json={"inputs": [tensor]}),
            *(
                server.post(f"/{route}", params={"target": TAG}, files={"image": ("x", data)})
                for route in ("explain", "lens")
            ),
            server.post("/ablate", files={"image": ("x", data)}),
        ]
        unknown = server.post("/lens", params={"target": TAG[:-1]}, files={"image": ("x", data)})
    assert {each["label"] for each in answers[0].json()["topk"]} == set(names)
    assert answers[1].json()["outputs"][1]["data"][0] in names
    assert answers[2].json()["target"] == answers[3].json()["target"] == TAG
    assert {each["label"] for each in answers[4].json()["classes"]} == set(names)
    assert TAG[:-1] in refused(unknown, 400)
    for answer in (*answers, unknown):
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "set-cookie" not in answer.headers


def test_awkward_files(
    server: TestClient, documented: set[int], unpacked: Callable[[str], Path]
) -> None:
    files = [path for path in unpacked("awkward-images.zip").rglob("*") if path.is_file()]
    good = send(server, encoded("png")).json()
    statuses = set()
    for path in files:
        begun = time.perf_counter()
        answer = send(server, path.read_bytes(), path.name)
        assert time.perf_counter() - begun < SECONDS, path.name
        assert answer.status_code in documented, path.name
        if answer.status_code != 200:
            message = refused(answer, *documented)
            assert path.stem not in message and str(path.parent) not in message
        statuses.add(answer.status_code)
    assert statuses == {200, 415, 422} and len(files) == 40
    assert send(server, encoded("png")).json() == good
