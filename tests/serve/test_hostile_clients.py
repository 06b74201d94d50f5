"""Clients that mean harm, at the socket of a real server."""

import contextlib
import re
import secrets
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import vitkit

SERVE = """
import sys
from vitkit.classifier import load
from vitkit.serve import listen
from vitkit.serve.app import make_app
from vitkit.serve.settings import Limits

listen.IDLE = listen.SILENCE = 0.5
limits = Limits(upload_seconds=1, megabytes=1, waiting=12)
app = make_app(load(sys.argv[1]), name="colours", limits=limits, hosts=("127.0.0.1",))
listen.listen(app, "127.0.0.1", 0, say=lambda address: print(address, flush=True))
"""
MEGABYTE = 1_000_000
PATIENCE = 15.0  # seconds after which a server counts as one that does not answer
START = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@dataclass(frozen=True)
class Place:
    """Where a server listens, and its process."""

    address: tuple[str, int]
    pid: int

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE)

    def most(self) -> float:
        """The most memory that it has had, in MB."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            pytest.skip("only Linux tells the most memory that a process has had")
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        assert found is not None
        return int(found[1]) / 1000


@pytest.fixture(scope="module")
def place(finished: vitkit.Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server that is soon out of patience; it must live to the end and find no fault of ours."""
    log = tmp_path_factory.mktemp("log") / "log"
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVE, str(finished.directory)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        host, port = process.stdout.readline().strip().removeprefix("http://").split(":")
        yield Place((host, int(port)), process.pid)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture
def image(colours: Path) -> bytes:
    return (colours / "red" / "00.png").read_bytes()


@pytest.fixture(autouse=True)
def served_afterwards(place: Place, image: bytes) -> Iterator[None]:
    """Whatever a test does, others are answered."""
    yield
    assert statuses(predict(place, image)) == [200]


def heard(connection: socket.socket) -> tuple[bytes, bool]:
    """What comes until the other end closes or says nothing more; and did it close?"""
    connection.settimeout(PATIENCE)
    parts = []
    try:
        while data := connection.recv(65536):
            parts.append(data)
    except TimeoutError:
        return b"".join(parts), False
    except ConnectionError:  # closed while more was on its way
        return b"".join(parts), True
    return b"".join(parts), True


def said(place: Place, data: bytes) -> bytes:
    """What the server answers to bytes, after which it must close."""
    with place.connect() as connection:
        with contextlib.suppress(ConnectionError):  # it closed before it had read all
            connection.sendall(data)
        answer, closed = heard(connection)
    assert closed, answer
    return answer


def statuses(answer: bytes) -> list[int]:
    """Of all answers in what was heard."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


def predict(place: Place, image: bytes, headers: bytes = b"") -> bytes:
    """A proper request, with further headers."""
    length = f"Content-Length: {len(image)}\r\nConnection: close\r\n".encode()
    return said(place, START + headers + length + b"\r\n" + image)


def trickle(place: Place, first: bytes, rest: Callable[[], bytes]) -> tuple[bytes, float]:
    """A client that sends a little now and then: what it is told, and seconds until it is shut out.

    It gives up after `PATIENCE`.
    """
    begun, answer = time.monotonic(), b""
    with place.connect() as connection:
        connection.settimeout(0.1)
        try:
            connection.sendall(first)
            while time.monotonic() - begun < PATIENCE:
                try:
                    data = connection.recv(65536)
                    if not data:
                        break
                    answer += data
                except TimeoutError:
                    connection.sendall(rest())
        except ConnectionError:
            pass
    return answer, time.monotonic() - begun


def test_slow_clients_are_shut_out_and_hold_nobody_up(place: Place, image: bytes) -> None:
    chunked = START + b"Transfer-Encoding: chunked\r\n\r\n"
    kinds: dict[str, tuple[bytes, Callable[[], bytes], set[int]]] = {
        "says nothing": (b"", lambda: b"", {408}),
        "headers": (START, lambda: b"X-%s: 1\r\n" % secrets.token_hex(2).encode(), {408}),
        "one header": (START + b"X-A: ", lambda: b"a", {408}),
        "body": (START + b"Content-Length: 9999\r\n\r\n", lambda: b"a", {408}),
        "silent body": (START + b"Content-Length: 9999\r\n\r\n", lambda: b"", {408}),
        "chunks": (chunked, lambda: b"1\r\na\r\n", {408}),
        "chunk size": (chunked, lambda: b"0", {408, 400}),
        "second request": (LIVE + b"\r\n" + START, lambda: b"X: 1\r\n", {200, 408}),
        "json": (
            b"POST /v2/models/colours/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Length: 9999\r\n\r\n",
            lambda: b"[",
            {408},
        ),
        "what is not read": (
            b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n\r\n",
            lambda: b"a",
            {404},
        ),
    }
    told: list[tuple[str, bytes, float]] = []

    def run(kind: str) -> None:
        first, rest, _ = kinds[kind]
        told.append((kind, *trickle(place, first, rest)))

    threads = [threading.Thread(target=run, args=(kind,)) for kind in kinds for _ in range(3)]
    for thread in threads:
        thread.start()
    waits = []
    while any(thread.is_alive() for thread in threads):
        begun = time.monotonic()
        assert statuses(predict(place, image)) == [200]
        waits.append(time.monotonic() - begun)
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert len(told) == len(threads) and max(waits) < 5
    still = {kind for kind, _, seconds in told if seconds >= PATIENCE}
    assert not still, "these are never shut out"
    for kind, answer, _ in told:
        assert set(statuses(answer)) <= kinds[kind][2], (kind, answer)
    for kind in ("body", "silent body", "chunks", "json"):
        assert any(statuses(answer) == [408] for name, answer, _ in told if name == kind), kind


def test_a_body_without_an_end(place: Place) -> None:
    before, begun = place.most(), time.monotonic()
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    answer = b""
    with place.connect() as connection:
        connection.sendall(START + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun < PATIENCE:
                connection.sendall(chunk)
                if not answer and select.select([connection], [], [], 0)[0]:
                    answer = connection.recv(65536)
    assert time.monotonic() - begun < PATIENCE, "the server goes on reading"
    assert statuses(answer) == [413]
    assert place.most() - before < 30


def test_a_body_that_stops_beyond_the_limit(place: Place) -> None:
    with place.connect() as connection:
        connection.sendall(START + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
        answer, closed = heard(connection)
    assert statuses(answer) == [413] and closed


@pytest.mark.parametrize(
    ("length", "body", "status"),
    [
        (b"9" * 15, b"abc", [413]),  # told before it comes
        (b"9" * 50, b"abc", [400]),
        (b"-1", b"abc", [400]),
        (b"1e3", b"abc", [400]),
        (b"+3", b"abc", [400]),
        (b"0x3", b"abc", [400]),
        (b"", b"abc", [400]),
        (b"3\r\nContent-Length: 4", b"abcd", [400]),
        (
            b"3",
            b"abc" + b"d" * 100 + b"\r\n\r\n",
            [415, 400],
        ),  # what is left is taken for a request
    ],
)
def test_lengths_that_lie(place: Place, length: bytes, body: bytes, status: list[int]) -> None:
    answer = said(place, START + b"Content-Length: " + length + b"\r\n\r\n" + body)
    assert statuses(answer) == status


def test_a_request_inside_another_stays_there(place: Place) -> None:
    inner = LIVE + b"\r\n"
    chunk = b"%x\r\n" % len(inner) + inner + b"\r\n0\r\n\r\n"
    both = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer = said(place, START + both + chunk)
    assert statuses(answer) in ([415], [400]) and b"live" not in answer


@pytest.mark.parametrize(
    "given",
    [
        b"a\0b",
        b"a\r\n Set-Cookie: a=b",  # a header folded into two lines
        b"a\rSet-Cookie: a=b",
        b"a%0d%0aSet-Cookie: a=b",
        b"a\nSet-Cookie: a=b",
        b"\xff\xfe",
        b"<script>",
        b"a" * 10_000,
        b"",
    ],
)
def test_request_ids_inject_nothing(place: Place, given: bytes) -> None:
    request = LIVE + b"X-Request-ID: " + given + b"\r\nConnection: close\r\n\r\n"
    answer = said(place, request)
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"set-cookie" not in head and (not given or given.lower() not in head)
    if statuses(answer) == [200]:
        assert re.search(rb"\r\nx-request-id: ([0-9a-f]{16}|a)(\r\n|$)", head)
    else:
        assert statuses(answer) == [400]


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        (b"GET /v2 HTTP/1.1", b"Host: evil.example\r\nX-Forwarded-Host: 127.0.0.1\r\n", 400),
        (b"GET /v2 HTTP/1.1", b"", 400),
        (b"GET /v2 HTTP/1.0", b"", 400),
        (b"GET /v2 HTTP/1.1", b"Host: 127.0.0.1\r\nHost: evil.example\r\n", 400),
        (b"GET /v2 HTTP/1.1", b"Host: evil.example\r\nHost: 127.0.0.1\r\n", 400),
        (b"GET /v2 HTTP/1.1", b"Host: 127.0.0.1, evil.example\r\n", 400),
        (b"GET /v2 HTTP/1.1", b"Host: evil.example:127.0.0.1\r\n", 400),
        (b"GET /v2 HTTP/1.1", b"Host: 127.0.0.1@evil.example\r\n", 400),
        (b"GET /v2 HTTP/1.1", b"Host: evil@127.0.0.1\r\n", 400),
        (b"GET /v2 HTTP/1.1", b"Host: 127.0.0.1:1:1\r\n", 400),
        (b"GET /v2 HTTP/1.1", b"Host: 127.0.0.1.\r\n", 400),
        (b"GET /v2 HTTP/1.1", b"Host: 127.0.0.1\0\r\n", 400),
        (b"GET /v2 HTTP/1.1", b"Host: 127.0.0.1/\r\n", 400),
        (b"GET http://127.0.0.1/v2 HTTP/1.1", b"Host: evil.example\r\n", 400),
        (b"GET //evil.example/v2 HTTP/1.1", b"Host: 127.0.0.1\r\n", 404),
        (b"GET http://evil.example/v2 HTTP/1.1", b"Host: 127.0.0.1\r\n", 404),
        (b"GET /v2 HTTP/1.1", b"Host: 127.0.0.1\r\nX-Forwarded-Host: evil.example\r\n", 200),
    ],
)
def test_games_with_hosts(place: Place, request_line: bytes, headers: bytes, status: int) -> None:
    answer = said(place, request_line + b"\r\n" + headers + b"Connection: close\r\n\r\n")
    assert statuses(answer) == [status]
    assert b"evil" not in answer


CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(range(256)) * 2,  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(1000),
        secrets.token_bytes(10_000) + b"\r\n\r\n",
        b"\r\n" * 50_000,
        b"GET /v2 HTTP/11.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /v2\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: a\r\n" * 50_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip, identity\r\n\r\n",
        CHUNKED + b"ZZZ\r\nabc\r\n",
        CHUNKED + b"-1\r\nabc\r\n",
        CHUNKED + b"F" * 18 + b"\r\nabc\r\n",
        CHUNKED + b"F" * 100_000,
        CHUNKED + b"1;" + b"x" * 100_000,
        CHUNKED + b"1\r\nabc\r\n",
        CHUNKED + b"10000\r\n" + bytes(65536) + b"\r\n" + b"10000\r\n" + bytes(65536) + b"ZZ\r\n",
        CHUNKED + (b"10000\r\n" + bytes(65536) + b"\r\n") * 20 + b"ZZZ\r\nabc",  # after its answer
        START + b"Content-Length: 3\r\n\r\nabc" + b"\0" * 100,
        START + b"Expect: nonsense\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        LIVE + b"Upgrade: websocket\r\nConnection: Upgrade, close\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + b"a" * 24 + b"\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Secret: seen\r\nConnection: close\r\n\r\n",
        b"BREW /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ],
    ids=range(28),
)
def test_what_is_hardly_http(place: Place, data: bytes) -> None:
    before = place.most()
    answer = said(place, data)
    assert all(400 <= status < 500 or b"websocket" in data for status in statuses(answer)), answer
    assert b"seen" not in answer and b"Traceback" not in answer
    assert place.most() - before < 20


def test_bodies_in_crumbs_hold_nobody_up(place: Place, image: bytes) -> None:
    """A chunk of each byte costs the server the most."""
    crumbs = CHUNKED + b"1\r\na\r\n" * 50_000
    thread = threading.Thread(target=said, args=(place, crumbs))
    thread.start()
    waits = []
    while thread.is_alive():
        begun = time.monotonic()
        assert statuses(predict(place, image)) == [200]
        waits.append(time.monotonic() - begun)
    thread.join()
    assert max(waits) < 5


def test_many_who_only_connect(place: Place, image: bytes) -> None:
    idle = [place.connect() for _ in range(300)]
    try:
        assert statuses(predict(place, image)) == [200]
        assert all(heard(connection)[1] for connection in idle), "these are never shut out"
    finally:
        for connection in idle:
            connection.close()
