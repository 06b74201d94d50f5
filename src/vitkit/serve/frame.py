"""What every request goes through: its id, its counting, and the form of errors."""

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitkit.errors import ConfigError
from vitkit.serve.batcher import Closed, Full
from vitkit.serve.measures import Measures
from vitkit.serve.refused import (
    BUSY,
    CLOSING,
    FAILED,
    INVALID,
    NOT_FOUND,
    Refused,
    error_body,
)

log = logging.getLogger("vitkit.serve")
GIVEN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
LEFT = 499  # counted of a client that left before it was answered
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class Picture(Response):
    """A PNG."""

    media_type = "image/png"


class Frame:
    """Around the application: request ids, headers that keep browsers safe, and counting.

    A client's own `X-Request-ID` is taken if it is short and plain. What a stranger's page makes a
    browser ask for is refused, be it under a name of its own or across sites.
    """

    def __init__(
        self, app: ASGIApp, measures: Measures, hosts: Collection[str] | None = None
    ) -> None:
        self.app, self.measures, self.hosts = app, measures, hosts

    def stranger(self, method: str, sent: Mapping[bytes, str]) -> Refused | None:
        """The refusal of what a stranger's page asks for; None of all else."""
        if self.hosts is not None and without_port(sent.get(b"host", "")) not in self.hosts:
            return Refused(INVALID, "the server does not answer to this name")
        if from_elsewhere(method, sent):
            return Refused(INVALID, "the server does not answer what other pages ask for")
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = {name: value.decode("latin-1") for name, value in scope["headers"]}
        given = sent.get(b"x-request-id", "")
        scope["state"]["request_id"] = given if GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        begun, status = time.perf_counter(), LEFT

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {name.lower() for name, _ in message["headers"]}
                ours = {**HEADERS, "x-request-id": scope["state"]["request_id"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (k.encode(), v.encode())
                        for k, v in ours.items()
                        if k.encode() not in headers
                    ),
                ]
            await send(message)

        try:
            if (stranger := self.stranger(scope["method"], sent)) is not None:
                body = stranger.body(scope["state"]["request_id"])
                await JSONResponse(body, INVALID.status)(scope, receive, framed)
                return
            await self.app(scope, receive, framed)
        except ClientDisconnect:
            pass  # nobody is there to be answered
        except Exception:
            request_id = scope["state"]["request_id"]
            log.exception("request %s failed", request_id)
            if status == LEFT:
                refused = Refused(FAILED, FAILED.about)
                await JSONResponse(refused.body(request_id), FAILED.status)(scope, receive, framed)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self.measures.request(route, status, time.perf_counter() - begun)


def from_elsewhere(method: str, sent: Mapping[bytes, str]) -> bool:
    """Whether another site's page makes a browser ask, and not somebody who follows a link."""
    if sent.get(b"sec-fetch-site") not in ("cross-site", "same-site"):
        return False
    followed = sent.get(b"sec-fetch-mode"), sent.get(b"sec-fetch-dest")
    return method != "GET" or followed != ("navigate", "document")


def without_port(host: str) -> str:
    """A name, or an address in brackets, as it stands before the port."""
    return re.sub(r":\d+$", "", host)


def handle_errors(app: FastAPI) -> None:
    """Give every error one form, without paths or tracebacks."""

    def answered(
        make: Callable[[Request, Exception], Refused],
    ) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handler(request: Request, error: Exception) -> Response:
            refused = make(request, error)
            body = refused.body(request.state.request_id)
            return JSONResponse(body, refused.reason.status, dict(refused.headers))

        return handler

    def as_it_is(request: Request, error: Exception) -> Refused:
        assert isinstance(error, Refused)
        return error

    def full(request: Request, error: Exception) -> Refused:
        assert isinstance(error, Full)
        return Refused(BUSY, str(error), {"Retry-After": str(error.retry_after)})

    def invalid(request: Request, error: Exception) -> Refused:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:])) or "the request"
        return Refused(INVALID, f"{where}: {first['msg']}")

    app.exception_handler(Refused)(answered(as_it_is))
    app.exception_handler(Full)(answered(full))
    app.exception_handler(Closed)(answered(lambda _, error: Refused(CLOSING, str(error))))
    app.exception_handler(ConfigError)(answered(lambda _, error: Refused(INVALID, str(error))))
    app.exception_handler(RequestValidationError)(answered(invalid))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            refused = Refused(NOT_FOUND, "there is nothing at this address; see /openapi.json")
            return JSONResponse(refused.body(request.state.request_id), 404)
        code = str(error.detail).lower().replace(" ", "_")
        body = error_body(code, str(error.detail), request.state.request_id)
        return JSONResponse(body, error.status_code, error.headers)
