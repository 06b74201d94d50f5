"""`vitkit serve` as a process of its own, and many who ask at once."""

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import vitkit
from vitkit.cli.serve import check_host, serve
from vitkit.errors import ConfigError, MissingExtra

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@contextmanager
def serving(run: vitkit.Run, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port, and its address."""
    command = ["serve", str(run.directory), "--port", "0", "--name", "colours", *options]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "vitkit", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("colours at http://127.0.0.1:"), process.communicate()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(finished: vitkit.Run) -> Iterator[str]:
    with serving(finished, "--waiting", "2000") as (_, address):
        yield address


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """Images of many sizes and three formats."""
    random, made = np.random.default_rng(0), []
    for number in range(30):
        height, width = random.integers(5, 300, 2)
        buffer = io.BytesIO()
        pixels = random.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3), dtype=np.uint8)
        large = Image.fromarray(pixels).resize((int(width), int(height)))
        large.save(buffer, ("jpeg", "png", "webp")[number % 3])
        made.append(buffer.getvalue())
    return made


async def ask_all(address: str, asked: list[bytes], at_once: int = 100) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
        posts = (client.post("/predict", files={"image": ("x", data)}) for data in asked)
        return list(await asyncio.gather(*posts))


def test_every_answer_of_many_is_that_of_one_alone(
    server: str, finished: vitkit.Run, files: list[bytes]
) -> None:
    alone = finished.load().predict(files, batch_size=1)
    asked = [files[i % len(files)] for i in range(1000)]
    answers = asyncio.run(ask_all(server, asked))
    assert Counter(answer.status_code for answer in answers) == {200: 1000}
    for i, answer in enumerate(answers):
        expected, found = alone[i % len(files)], answer.json()
        shares = {each.label: each.score for each in expected.topk}
        assert {e["label"]: pytest.approx(e["score"], abs=1e-4) for e in found["topk"]} == shares


def test_bad_ones_among_good_ones(server: str, files: list[bytes]) -> None:
    asked = [*files, b"text", files[0][:100], b""] * 5
    codes = [answer.status_code for answer in asyncio.run(ask_all(server, asked))]
    assert codes == [*[200] * len(files), 415, 422, 415] * 5


def test_who_leaves_is_not_waited_for(server: str, files: list[bytes]) -> None:
    host, port = server.removeprefix("http://").split(":")
    for _ in range(20):  # headers that promise more than comes
        with socket.create_connection((host, int(port))) as half:
            half.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n"
                         b"Content-Type: image/png\r\n\r\nabc")  # fmt: skip
    assert asyncio.run(ask_all(server, files[:1]))[0].status_code == 200
    assert httpx.get(f"{server}/v2/health/live").status_code == 200


def test_too_many_are_told_so_and_health_answers(finished: vitkit.Run, files: list[bytes]) -> None:
    async def storm(address: str) -> tuple[Counter[int], float]:
        slowest = 0.0
        work = asyncio.create_task(ask_all(address, files * 10, at_once=300))
        async with httpx.AsyncClient(base_url=address) as client:
            while not work.done():
                begun = time.perf_counter()
                assert (await client.get("/v2/health/live")).status_code == 200
                slowest = max(slowest, time.perf_counter() - begun)
                await asyncio.sleep(0.05)
        return Counter(answer.status_code for answer in await work), slowest

    with serving(finished, "--waiting", "8") as (_, address):
        codes, slowest = asyncio.run(storm(address))
        assert set(codes) == {200, 429} and sum(codes.values()) == 300
        assert slowest < 10  # of a busy machine; what is measured is in benchmarks
        assert asyncio.run(ask_all(address, files[:1]))[0].status_code == 200


def test_what_was_taken_is_answered_at_the_end(finished: vitkit.Run, files: list[bytes]) -> None:
    with serving(finished, "--delay", "300") as (process, address):

        async def scene() -> list[httpx.Response]:
            asked = asyncio.create_task(ask_all(address, files))
            await asyncio.sleep(0.2)  # all wait for the batch to begin
            process.send_signal(signal.SIGTERM)
            return await asked

        answers = asyncio.run(scene())
        assert [answer.status_code for answer in answers] == [200] * len(files)
        assert process.wait(20) == 0


def test_a_port_that_is_taken(finished: vitkit.Run, server: str) -> None:
    port = server.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "vitkit", "serve", str(finished.directory), "--port", port],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 2
    assert f"--port {port} cannot be listened at (Address already in use)" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "token", "anyone", "fails"),
    [
        ("127.0.0.1", None, False, None),
        ("::1", None, False, None),
        ("localhost", None, False, None),
        ("0.0.0.0", None, False, "lets others in"),
        ("example.com", None, False, "lets others in"),
        ("0.0.0.0", "longenough", False, None),
        ("0.0.0.0", None, True, None),
        ("127.0.0.1", "short", False, "fewer than 8"),
    ],
)
def test_hosts(host: str, token: str | None, anyone: bool, fails: str | None) -> None:
    def check() -> Any:
        check_host(host, token, anyone=anyone)

    if fails is None:
        check()
    else:
        with pytest.raises(ConfigError, match=fails):
            check()


def test_the_extra_is_named(finished: vitkit.Run, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("vitkit.serve")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"pip install 'vitkit\[serve\]'"):
        serve(finished.directory)
