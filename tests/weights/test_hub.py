"""The hub: a small server on this machine that speaks its endpoints, and misbehaves on demand."""

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import save

from vitkit.errors import ConfigError, VitkitError, WeightsError
from vitkit.progress import Progress
from vitkit.weights import hub
from vitkit.weights.files import read_tensors, weights_in

REPOSITORY = "someone/some_model.v1"
REFERENCE = f"hf-hub:{REPOSITORY}"
TENSORS = {"head.weight": torch.arange(60_000.0).reshape(200, 300)}
WEIGHTS = save(TENSORS)
OTHER = save({"head.weight": torch.ones(3)})


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked."""

    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # by part of the path
    cut: list[int] = field(default_factory=list)  # bytes of an answer before the connection drops
    corrupt: bool = False  # large files come with a byte changed
    short: int = 0  # bytes less than the hub's own size of a file
    page: bool = False  # a proxy's page in place of every answer
    redirect: str = ""  # the address of large files
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def requests(self, method: str, end: str) -> list[dict[str, str]]:
        """The headers of what was asked."""
        return [h for m, path, h in self.asked if m == method and path.endswith(end)]


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        for part, (status, code) in self.hub.refused.items():
            if part in path:
                return self.answer(status, b"", {"X-Error-Code": code} if code else {})
        if self.hub.page:
            return self.answer(200, b"<html>Please log in</html>", {})
        if path.startswith("/api/models/"):
            return self.describe(*path.removeprefix("/api/models/").split("/revision/"))
        if path.startswith("/cdn/"):
            return self.send_file(path.removeprefix("/cdn/"))
        repository, _, rest = path[1:].partition("/resolve/")
        return self.resolve(repository, *rest.split("/", 1))

    def find(self, repository: str, revision: str) -> dict[str, bytes] | None:
        revision = unquote(revision)  # a branch may have slashes
        found = self.hub.revisions
        named = found | {commit_of(files): files for files in found.values()}
        if repository != REPOSITORY:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in named:
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return named.get(revision) if repository == REPOSITORY else None

    def describe(self, repository: str, revision: str = "main") -> None:
        if (files := self.find(repository, revision)) is not None:
            siblings = [{"rfilename": name} for name in files]
            content = {"id": repository, "sha": commit_of(files), "siblings": siblings}
            self.answer(200, json.dumps(content).encode(), {})

    def resolve(self, repository: str, revision: str, name: str) -> None:
        if (files := self.find(repository, revision)) is None:
            return
        commit = {"X-Repo-Commit": commit_of(files)}
        if name not in files:
            return self.answer(404, b"", commit | {"X-Error-Code": "EntryNotFound"})
        data = files[name]
        if name.endswith(".json"):
            tag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return self.answer(200, data, commit | {"ETag": f'"{tag}"'})
        large = commit | {
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)),
            "ETag": '"of the redirection"',
        }
        if self.hub.redirect:
            location = f"{self.hub.redirect}/cdn/{commit_of(files)}/{name}"
            return self.answer(302, b"", large | {"Location": location})
        return self.send_data(data, large)

    def send_file(self, path: str) -> None:
        commit, name = path.split("/")
        (data,) = [f[name] for f in self.hub.revisions.values() if commit_of(f) == commit]
        self.send_data(data, {})

    def send_data(self, data: bytes, headers: dict[str, str]) -> None:
        if self.hub.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        data = data[: len(data) - self.hub.short]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start:
            headers = headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self.answer(206 if start else 200, data[start:], headers)

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if len(data) > 1000 and self.hub.cut:
            self.wfile.write(data[: self.hub.cut.pop(0)])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(data)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, that the environment leads to, and an empty cache."""
    files = {
        "README.md": b"# A model",
        "config.json": b'{"architecture": "vit_tiny_patch16_224"}',
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"never asked for",
        "onnx/model.onnx": b"never asked for",
    }
    state = Hub({"main": files})
    handler = type("Bound", (Handler,), {"hub": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{http.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits before trying again."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def complaint(reference: str = REFERENCE, kind: type[VitkitError] = WeightsError) -> str:
    """The one line that a fetch ends in."""
    with pytest.raises(kind) as caught:
        hub.fetch(reference)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500
    return message


def blobs(home: Path) -> list[Path]:
    """Whole or partial content in the cache."""
    return [path for path in home.rglob("*") if path.is_file() and path.stat().st_size > 10_000]


# What comes


def test_only_what_is_needed_comes(server: Hub, tmp_path: Path) -> None:
    heard: list[Progress] = []
    directory = hub.fetch(REFERENCE, listen=heard.append)
    assert directory.is_relative_to(tmp_path / "home")
    assert {path.name for path in directory.iterdir()} == {"config.json", "model.safetensors"}
    assert torch.equal(read_tensors(weights_in(directory))["head.weight"], TENSORS["head.weight"])
    for absent in ("README.md", ".bin", ".onnx", "preprocessor_config.json"):
        assert not server.requests("GET", absent) and not server.requests("HEAD", absent)
    last = [p for p in heard if p.figures["file"] == "model.safetensors"][-1]
    assert (last.done, last.total) == (len(WEIGHTS), len(WEIGHTS))


def test_nothing_is_printed(server: Hub, capfd: pytest.CaptureFixture[str], hasty: None) -> None:
    server.cut = [50_000]
    hub.fetch(REFERENCE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("scheme", hub.SCHEMES)
def test_what_is_there_is_not_fetched_again(server: Hub, scheme: str) -> None:
    first = hub.fetch(scheme + REPOSITORY)
    assert hub.fetch(scheme + REPOSITORY) == first
    assert len(server.requests("GET", "model.safetensors")) == 1
    assert len(server.requests("GET", "config.json")) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"preprocessor_config.json": b"{}", "config.json": b"{}", "pytorch_model.bin": OTHER},
        {"config.json": b"{}", "deit_tiny.pth": OTHER},
        {"ViT-B_16.npz": OTHER},
        {"config.json": b"{}", "swin.safetensors": OTHER, "training_args.bin": b"no"},
    ],
    ids=lambda files: max(files),
)
def test_layouts(server: Hub, files: dict[str, bytes]) -> None:
    server.revisions["main"] = files | {"tokenizer.json": b"no"}
    directory = hub.fetch(REFERENCE)
    expected = {name for name, content in files.items() if content != b"no"}
    assert {path.name for path in directory.iterdir()} == expected
    assert set(read_tensors(weights_in(directory))) == {"head.weight"}


def test_shards(server: Hub) -> None:
    places = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index = {
        "model.safetensors.index.json": json.dumps({"weight_map": places}).encode(),
        "model-1.safetensors": save({"a": torch.ones(2)}),
        "model-2.safetensors": save({"b": torch.ones(3)}),
    }
    server.revisions["main"] = {"config.json": b"{}", **index, "pytorch_model.bin": b""}
    directory = hub.fetch(REFERENCE)
    assert set(read_tensors(weights_in(directory))) == {"a", "b"}
    del server.revisions["main"]["model-2.safetensors"]
    assert complaint() == f"{REPOSITORY} lacks a file that it lists; tell its owner"
    stray = json.dumps({"weight_map": {"a": "../../secret"}}).encode()
    server.revisions["main"]["model.safetensors.index.json"] = stray
    assert "leads to '../../secret'" in complaint()


def test_revisions(server: Hub) -> None:
    server.revisions["pr/1"] = {"config.json": b"{}", "model.safetensors": OTHER}
    main, other = hub.fetch(REFERENCE), hub.fetch(f"{REFERENCE}@pr/1")
    assert (main / "model.safetensors").read_bytes() == WEIGHTS
    assert (other / "model.safetensors").read_bytes() == OTHER
    commit = commit_of(server.revisions["pr/1"])
    assert hub.fetch(f"{REFERENCE}@{commit}") == other
    assert complaint(f"{REFERENCE}@v9") == f"{REPOSITORY}@v9 has no revision 'v9'; " + (
        "leave it out for 'main'"
    )


def test_a_branch_that_moves_on(server: Hub) -> None:
    first = hub.fetch(REFERENCE)
    server.revisions["main"] = {"config.json": b"{}", "model.safetensors": OTHER}
    second = hub.fetch(REFERENCE)
    assert first != second and (second / "model.safetensors").read_bytes() == OTHER


def test_the_token_stays_with_the_hub(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files are on another host, with an address that is signed."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.redirect = os.environ["HF_ENDPOINT"].replace("127.0.0.1", "localhost")
    directory = hub.fetch(REFERENCE)
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    elsewhere = [headers for _, path, headers in server.asked if path.startswith("/cdn/")]
    there = [headers for _, path, headers in server.asked if not path.startswith("/cdn/")]
    assert elsewhere and not any("authorization" in headers for headers in elsewhere)
    assert all(headers["authorization"] == "Bearer hf_secret" for headers in there)


# What goes wrong on the way


def test_a_dropped_connection_is_resumed(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # of 10 MB
    server.cut = [50_000]
    directory = hub.fetch(REFERENCE)
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    first, second = server.requests("GET", "model.safetensors")
    assert "range" not in first
    assert 0 < int(second["range"].removeprefix("bytes=").rstrip("-")) <= 50_000


def test_a_connection_that_always_drops(server: Hub, hasty: None, tmp_path: Path) -> None:
    server.cut = [0] * 100
    line = complaint()
    assert line.startswith(f"{REPOSITORY} cannot be fetched from http://127.0.0.1:")
    assert line.endswith("; check the network and try again")
    assert len(server.requests("GET", "model.safetensors")) < 10
    assert not blobs(tmp_path)
    server.cut = []
    assert (hub.fetch(REFERENCE) / "model.safetensors").read_bytes() == WEIGHTS


def test_another_hash(server: Hub, tmp_path: Path) -> None:
    server.corrupt = True
    assert complaint() == (
        f"model.safetensors of {REPOSITORY} came with another hash than the hub's; it was thrown "
        "away, try again"
    )
    assert not blobs(tmp_path)
    server.corrupt = False
    directory = hub.fetch(REFERENCE)
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS


def test_an_interruption_while_the_hash_is_computed(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path, tag: str) -> bool:
        if path.name == "model.safetensors":
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(hub, "_is_genuine", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hub.fetch(REFERENCE)
    assert not blobs(tmp_path)


def test_another_size(server: Hub, tmp_path: Path) -> None:
    server.short = 100
    assert "cannot be fetched: Consistency check failed" in complaint()
    assert not blobs(tmp_path)


def test_a_full_disk(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=100_000))
    line = complaint()
    assert line.startswith(f"model.safetensors needs 0 MB, and {tmp_path}/home/hub has 0 MB left;")
    assert not server.requests("GET", "model.safetensors")
    monkeypatch.undo()


def test_a_disk_that_fills_up(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fill)
    assert "does not fit on the disk of" in complaint()
    monkeypatch.setenv("HF_HOME", "/dev/null/home")
    assert "cannot be stored in /dev/null/home/hub: Not a directory" in complaint()


# What the hub refuses


@pytest.mark.parametrize(
    ("part", "status", "code", "line"),
    [
        ("/resolve/", 403, "GatedRepo", " is gated; accept its conditions on http://127.0.0.1:"),
        ("/resolve/", 401, "GatedRepo", " is gated; accept its conditions on http://127.0.0.1:"),
        ("/api/", 401, "GatedRepo", " is gated; accept its conditions on http://127.0.0.1:"),
        ("/api/", 401, "", " may not be read; accept the conditions on http://127.0.0.1:"),
        ("/api/", 403, "", " may not be read; accept the conditions on http://127.0.0.1:"),
        ("/resolve/", 401, "", " may not be read; accept the conditions on http://127.0.0.1:"),
        ("/api/", 404, "RepoNotFound", " is not on the hub, or is private; check the name, or"),
        ("/api/", 401, "RepoNotFound", " is not on the hub, or is private; check the name, or"),
        ("/api/", 404, "", " is not on the hub; check the name and the revision"),
        ("/resolve/", 404, "", " is not on the hub; check the name and the revision"),
        ("/api/", 500, "", " cannot be fetched: the hub answers with error 500; try again later"),
        ("/api/", 429, "", " cannot be fetched: the hub answers with error 429; try again later"),
        ("/resolve/", 503, "", " cannot be fetched: the hub answers with error 503; try again"),
        ("safetensors", 404, "EntryNotFound", " lacks a file that it lists; tell its owner"),
    ],
)
def test_refusals(server: Hub, hasty: None, part: str, status: int, code: str, line: str) -> None:
    server.refused = {part: (status, code)}
    message = complaint()
    assert message.startswith(REPOSITORY + line)
    if "accept" in line:
        assert f"{os.environ['HF_ENDPOINT']}/{REPOSITORY}" in message and "HF_TOKEN" in message


def test_no_such_repository(server: Hub) -> None:
    assert complaint("hf-hub:no/body") == (
        "no/body is not on the hub, or is private; check the name, or set HF_TOKEN"
    )


def test_no_weights(server: Hub) -> None:
    server.revisions["main"] = {"config.json": b"{}", "README.md": b""}
    assert complaint().startswith(f"{REPOSITORY} holds no weights; model.safetensors is")
    server.revisions["main"] = {"a.pth": b"1", "b.pth": b"2"}
    assert "holds 2 files of weights (a.pth, b.pth)" in complaint()


def test_what_is_no_hub(server: Hub, monkeypatch: pytest.MonkeyPatch, hasty: None) -> None:
    server.page = True
    assert "is no hub; check HF_ENDPOINT and the proxy" in complaint()
    monkeypatch.setenv("HF_ENDPOINT", "huggingface.co")
    assert complaint(kind=ConfigError).startswith("HF_ENDPOINT='huggingface.co' is no address;")


@pytest.mark.parametrize(
    "reference",
    [
        "hf-hub:",
        "hf-hub:name",
        "hf-hub:a/b/c",
        "hf-hub:/name",
        "hf-hub:owner/",
        "hf-hub:owner/na me",
        "hf-hub:owner/name@",
        "hf-hub:owner/name@a@b",
        "hf-hub:owner/name@../../x",
        "hf-hub:owner/..",
        "hf-hub:../name",
        "hf-hub:owner/na--me",
        "hf-hub:owner/name@/etc",
        "hf-hub:owner/" + "x" * 100,
        "hf-hub:owner/name\n",
        "hf-hub:https://huggingface.co/owner/name",
    ],
)
def test_malformed_references(reference: str) -> None:
    assert complaint(reference, ConfigError) == (
        f"{reference!r} is no repository; write hf-hub:owner/name[@revision]"
    )


def test_references() -> None:
    assert hub.parse("hf_hub:timm/vit.augreg_in1k") == ("timm/vit.augreg_in1k", "main")
    assert hub.parse("hf-hub:a/b@refs/pr/3") == ("a/b", "refs/pr/3")
    assert hub.is_reference("hf-hub:a/b") and hub.is_reference("hf_hub:a/b")
    assert not hub.is_reference(Path("runs/a")) and not hub.is_reference("a/b")


# Without the hub


def test_offline(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.revisions["v2"] = {"model.safetensors": OTHER}
    directory, other = hub.fetch(REFERENCE), hub.fetch(f"{REFERENCE}@v2")
    server.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.fetch(REFERENCE) == directory
    assert hub.fetch(f"{REFERENCE}@v2") == hub.fetch(f"{REFERENCE}@{other.name}") == other
    assert complaint("hf-hub:no/body") == (
        f"no/body@main is not in the cache {tmp_path}/home/hub with all of its files, and "
        "HF_HUB_OFFLINE is set; unset it once to fetch them"
    )
    assert f"{REPOSITORY}@v9 is not in the cache" in complaint(f"{REFERENCE}@v9")
    (directory / "model.safetensors").unlink()
    assert "is not in the cache" in complaint()
    assert not server.asked


def test_offline_with_a_shard_missing(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.dumps({"weight_map": {"head.weight": "a.safetensors"}}).encode()
    server.revisions["main"] = {"model.safetensors.index.json": index, "a.safetensors": OTHER}
    directory = hub.fetch(REFERENCE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.fetch(REFERENCE) == directory
    (directory / "a.safetensors").unlink()
    assert "is not in the cache" in complaint()


def test_an_unreachable_hub(server: Hub, monkeypatch: pytest.MonkeyPatch, hasty: None) -> None:
    directory = hub.fetch(REFERENCE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", nobody)
        assert hub.fetch(REFERENCE) == directory
        line = complaint("hf-hub:no/body")
    assert line.startswith(f"no/body cannot be fetched from {nobody}: ")
    assert line.endswith("; check the network and try again")


def test_a_process_without_network(server: Hub) -> None:
    """As a command sees it: the library reads its settings when it is loaded, and that is late."""
    directory = hub.fetch(REFERENCE)
    server.asked.clear()
    script = f"""
import sys
from vitkit.weights import hub
print("huggingface_hub" in sys.modules)
print(hub.fetch({REFERENCE!r}))
hub.fetch("hf-hub:no/body")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.splitlines() == ["False", str(directory)], done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("vitkit.errors.WeightsError: no/body@main is not in the cache")
    assert not server.asked
