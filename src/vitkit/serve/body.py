"""What a request brings, read within limits."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Query
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vitkit.errors import nearest
from vitkit.serve.refused import INVALID, NOT_AN_IMAGE, SLOW, TOO_LARGE, Refused
from vitkit.serve.settings import Limits

FIELD = "image"  # of the form
FIELDS = 8  # that a form may have besides
Take = Callable[[int], None]  # told of every piece of a body; may refuse it
Read = TypeVar("Read")
Fitted = Annotated[
    bool, Query(description="the image is one that /view gave: neither resized nor cropped again")
]
BINARY = {"type": "string", "format": "binary"}
IMAGE_BODY: dict[str, Any] = {  # how OpenAPI describes what `read_image` takes
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: BINARY},
                }
            },
            "application/octet-stream": {"schema": BINARY},
        },
    }
}


def check_parameters(request: Request) -> None:
    """Let no parameter pass that the route does not have.

    Raises:
        Refused: there is one; the nearest that it has is named.
    """
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise Refused(INVALID, f"no parameter is called {name!r}{nearest(name, known)}; {has}")


async def read_image(request: Request, limits: Limits, take: Take) -> bytes:
    """The file in the field `image` of a multipart form, or the whole body of an image/* request.

    Raises:
        Refused: it is too large, too slow, of another type, or has no such field.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return await _in_time(_whole(request, limits, take), limits)
    if kind != "multipart/form-data":
        raise Refused(
            NOT_AN_IMAGE,
            f"content type {kind or 'none'!r} is neither multipart/form-data nor image/*; "
            f"send the file as the field {FIELD!r} of a form",
        )
    return await _in_time(_field(request, limits, take), limits)


async def read_json(request: Request, limits: Limits, take: Take = lambda count: None) -> Any:
    """The body as JSON.

    Raises:
        Refused: it is none, too large, or too slow.
    """
    body = await _in_time(_whole(request, limits, take), limits)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(INVALID, "the body is no JSON") from None


async def gone(request: Request) -> None:
    """Wait until whoever asked has left; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _in_time(reading: Awaitable[Read], limits: Limits) -> Read:
    try:
        return await asyncio.wait_for(reading, limits.upload_seconds)
    except TimeoutError:
        raise Refused(
            SLOW, f"the request did not arrive within {limits.upload_seconds:g} s"
        ) from None


async def _whole(request: Request, limits: Limits, take: Take) -> bytes:
    return b"".join([chunk async for chunk in _chunks(request, limits, take)])


async def _chunks(request: Request, limits: Limits, take: Take) -> Any:
    """The body piece by piece, until it is too large."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_bytes:
        raise _too_large(limits)
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limits.max_bytes:
            raise _too_large(limits)
        take(len(chunk))
        yield chunk


async def _field(request: Request, limits: Limits, take: Take) -> bytes:
    """The file in the form's field."""
    parser = MultiPartParser(
        request.headers, _chunks(request, limits, take), max_files=1, max_fields=FIELDS
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(INVALID, f"the form cannot be read: {error.message}") from None
    except (KeyError, AssertionError, UnicodeDecodeError):  # no boundary, broken headers
        raise Refused(INVALID, "the form cannot be read") from None
    try:
        file = form.get(FIELD)
        if not isinstance(file, UploadFile):
            raise Refused(INVALID, f"the form has no file in a field {FIELD!r}")
        if others := sorted(set(form) - {FIELD}):
            raise Refused(
                INVALID, f"the form has a field {others[0]!r}; options go into the address, after ?"
            )
        return await file.read()
    finally:
        await form.close()


def _too_large(limits: Limits) -> Refused:
    return Refused(TOO_LARGE, f"the body is larger than {limits.megabytes:g} MB")
