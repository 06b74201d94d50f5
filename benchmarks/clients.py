"""Light HTTP clients: requests that were made beforehand, over connections that stay open.

Of an answer they read its status and look for its end, so that on a machine of few cores they take
little from the server. They import no torch, and are meant to run in processes of their own.
"""

import asyncio
import contextlib
import itertools
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
HEALTH = b"GET /v2/health/live HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
TICK = 0.005  # seconds between looks at what is due

Place = tuple[str, int]  # host and port
Reply = tuple[int, bytes]  # status and body


class Wire(asyncio.Protocol):
    """A connection, on which one request at a time is asked."""

    def __init__(self) -> None:
        self.alive = True
        self.got = bytearray()
        self.answer: asyncio.Future[Reply] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data
        head, end, body = self.got.partition(b"\r\n\r\n")
        if not end or self.answer is None or self.answer.done():
            return
        length = LENGTH.search(head)
        assert length is not None  # else it is not for these clients
        if len(body) >= int(length[1]):
            self.answer.set_result((int(head[9:12]), bytes(body)))

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = False
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("the server hung up"))

    async def ask(self, request: bytes) -> Reply:
        """The answer to a request.

        Raises:
            ConnectionError: the server hung up instead.
        """
        if not self.alive:
            raise ConnectionError("the server has hung up")
        self.got.clear()
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answer


async def connect(place: Place) -> Wire:
    """A new connection."""
    _, wire = await asyncio.get_running_loop().create_connection(Wire, *place)
    return wire


def make_requests(folder: Path, route: str) -> list[bytes]:
    """For each JPEG file below a folder, in order of path, a form that brings it to a route."""
    return [form(path.read_bytes(), route) for path in sorted(folder.rglob("*.jpg"))]


def form(image: bytes, route: str) -> bytes:
    """A whole request with an image in the field of a form."""
    body = (
        b'--limit\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n" + image + b"\r\n--limit--\r\n"
    )
    head = (
        f"POST {route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=limit\r\n\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of requests that were all answered."""

    replies: list[Reply]  # in the order of the requests
    each: list[float]  # seconds of each
    seconds: float  # of all
    processor: float  # seconds of it that the clients took


def ask_all(place: Place, folder: Path, route: str, connections: int, times: int = 1) -> Asked:
    """Every image of a folder, so many times, over so many connections at once."""
    requests = make_requests(folder, route) * times
    return asyncio.run(_ask_all(place, requests, connections))


async def _ask_all(place: Place, requests: Sequence[bytes], connections: int) -> Asked:
    wires = [await connect(place) for _ in range(connections)]
    replies: list[Reply] = [(0, b"")] * len(requests)
    each = [0.0] * len(requests)
    numbers = itertools.count()

    async def work(wire: Wire) -> None:
        while (number := next(numbers)) < len(requests):
            begun = time.perf_counter()
            replies[number] = await wire.ask(requests[number])
            each[number] = time.perf_counter() - begun

    begun, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(work, wires))
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    for wire in wires:
        wire.transport.abort()
    return Asked(replies, each, seconds, used)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is asked, and what counts as usual afterwards."""

    rate: float  # requests per second
    duration: float  # seconds
    most: int  # requests on their way at once
    usual: float  # seconds in which one request is answered where there is no other
    stay: bool = False  # at the end, for the answers; else the clients hang up


@dataclass(slots=True)
class Load:
    """What came of more requests than can be answered."""

    sent: int = 0
    held_back: int = 0  # due, but as many as may were on their way
    failed: int = 0  # the server hung up, or let nobody in
    answers: dict[int, list[float]] = field(default_factory=dict)  # by status: seconds of each
    begun: float = 0.0  # by the clock of `time.monotonic`
    ended: float = 0.0
    processor: float = 0.0  # seconds that the clients took until then
    recovered: float = 0.0  # seconds from the end until one request was answered as usual
    tried: int = 0  # requests, one by one, until then

    @property
    def statuses(self) -> dict[int, int]:
        """How many answers had which status."""
        return {status: len(each) for status, each in sorted(self.answers.items())}

    @property
    def unanswered(self) -> int:
        """Requests whose clients hung up at the end."""
        return self.sent - self.failed - sum(self.statuses.values())


def overload(place: Place, folder: Path, route: str, plan: Plan) -> Load:
    """Requests as they become due, whether or not those before are answered; then recovery."""
    return asyncio.run(_overload(place, make_requests(folder, route), plan))


async def _overload(place: Place, requests: Sequence[bytes], plan: Plan) -> Load:
    load = Load(begun=time.monotonic())
    wires: set[Wire] = set()
    idle: list[Wire] = []
    asking: set[asyncio.Task[None]] = set()

    async def reply(request: bytes) -> tuple[Wire, int]:
        if idle:
            wire = idle.pop()
            with contextlib.suppress(ConnectionError):  # an idle connection may end at any time
                return wire, (await wire.ask(request))[0]
            wires.discard(wire)
        wire = await connect(place)
        wires.add(wire)
        return wire, (await wire.ask(request))[0]

    async def ask(number: int, due: float) -> None:
        try:
            wire, status = await reply(requests[number % len(requests)])
        except OSError:
            load.failed += 1
            return
        load.answers.setdefault(status, []).append(time.monotonic() - due)
        idle.append(wire)

    used, number = time.process_time(), 0
    while (now := time.monotonic() - load.begun) < plan.duration:
        while number < now * plan.rate:
            if len(asking) < plan.most:
                task = asyncio.create_task(ask(number, load.begun + number / plan.rate))
                asking.add(task)
                task.add_done_callback(asking.discard)
                load.sent += 1
            else:
                load.held_back += 1
            number += 1
        await asyncio.sleep(TICK)
    load.ended, load.processor = time.monotonic(), time.process_time() - used
    if not plan.stay:
        for task in asking:
            task.cancel()
        for wire in wires:
            wire.transport.abort()
    await _recover(place, requests[0], plan.usual, load)
    await asyncio.gather(*asking, return_exceptions=True)  # those that were cancelled
    for wire in wires:
        wire.transport.abort()
    return load


async def _recover(place: Place, request: bytes, usual: float, load: Load) -> None:
    """Ask one by one until an answer comes as it does where there is no other request."""
    while True:
        wire = await connect(place)
        begun = time.monotonic()
        status, _ = await wire.ask(request)
        ended = time.monotonic()
        wire.transport.abort()
        load.tried += 1
        if status == 200 and ended - begun <= usual:
            load.recovered = ended - load.ended
            return
        await asyncio.sleep(0.02)


def watch(place: Place, duration: float, every: float) -> list[tuple[float, float]]:
    """When the server was asked whether it lives, by `time.monotonic`, and seconds that it took.

    Each time over a new connection, as those ask who watch over servers.

    Raises:
        ConnectionError: the answer is not 200, or there is none.
    """
    seen, end = [], time.monotonic() + duration
    while (begun := time.monotonic()) < end:
        with socket.create_connection(place, timeout=60) as connection:
            connection.sendall(HEALTH)
            answer = b""
            while data := connection.recv(4096):
                answer += data
        seen.append((begun, time.monotonic() - begun))
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"the server says of its health: {answer[:100]!r}")
        time.sleep(max(every - seen[-1][1], 0))
    return seen
