"""An HTTP server that breaks off, refuses and forgets, as those of the network do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class DroppingServer(ThreadingHTTPServer):
    """Serves `files` by path; what it does wrong can be changed at any time."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.drop_after: int | None = None  # bytes of every answer, after which it breaks off
        self.refuse = 0  # requests that are answered by 503 first
        self.ranges = True  # whether range requests are understood
        self.sized = True  # whether answers say their length
        self.asked: list[tuple[str, int]] = []  # path and first byte of every request

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are none of a test's business."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: DroppingServer

    def do_GET(self) -> None:
        server, path = self.server, self.path.partition("?")[0]
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        start = int(asked) if server.ranges else 0
        server.asked.append((path, int(asked)))
        if server.refuse:
            server.refuse -= 1
            self.send_error(503)
            return
        content = server.files.get(path)
        if content is None:
            self.send_error(404)
            return
        partial = server.ranges and "Range" in self.headers
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.sized:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        limit = None if server.drop_after is None else start + server.drop_after
        self.wfile.write(content[start:limit])

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[DroppingServer]:
    """A server that is up meanwhile."""
    with DroppingServer(files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
