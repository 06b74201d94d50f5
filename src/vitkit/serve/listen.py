"""An application behind a socket, until it is told to end."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitkit.errors import ConfigError

GRACE = 30  # seconds that requests have to be answered once the server is to end
IDLE = 5  # seconds that a connection stays open without a request
SILENCE = 30  # seconds in which the head of a request must have come
BACKLOG = 2048  # connections that the system holds until they are taken


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, which closes what has no whole request for `SILENCE` seconds."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._idle = self.loop.time()  # since when there has been no request
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._next.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Say that what came is no HTTP, unless something else has been said already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _look(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._idle = self.loop.time()
        elif self.loop.time() - self._idle > SILENCE:
            self.transport.close()
        self._next = self.loop.call_later(1, self._look)


class Listener(uvicorn.Server):
    """uvicorn, which after SIGINT or SIGTERM answers what it took and then ends in peace."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals that end a server, and do not send them again afterwards."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(app: FastAPI, host: str, port: int, *, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then answer what was taken. `say` is told the address.

    Raises:
        ConfigError: the port cannot be listened at.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=IDLE,
        http=Protocol,
    )
    gc.collect()
    gc.freeze()  # torch's modules: to look through them would halt all for 0.2 s now and then
    with bound(host, port) as listener:
        say(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
        Listener(config).run(sockets=[listener])


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        ConfigError: it cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address, family=family, backlog=BACKLOG)
        # which connections inherit: without it the system holds back the body of an answer, 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        number = error.errno or -1  # below 0 are those of names that are not found
        reason = os.strerror(number) if number > 0 else "no such host"
        raise ConfigError(
            f"--host {host} --port {port} cannot be listened at ({reason}); "
            "choose another, or --port 0 for a free one"
        ) from None
