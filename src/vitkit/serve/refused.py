"""Why a request gets no answer, in the words and numbers of HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reason:
    """A kind of refusal: its status, its code, and what it means."""

    status: int
    code: str
    about: str


INVALID = Reason(400, "invalid_request", "the request is not of the form that is documented")
UNAUTHORISED = Reason(401, "unauthorised", "the token is missing or wrong")
FORBIDDEN = Reason(403, "forbidden", "the server was started without what this needs")
NOT_FOUND = Reason(404, "not_found", "there is no such model, class or place")
SLOW = Reason(408, "request_too_slow", "the request did not arrive in time")
TOO_LARGE = Reason(413, "too_large", "the body is larger than the server takes")
NOT_AN_IMAGE = Reason(415, "not_an_image", "what was sent is no image of a format that is opened")
UNREADABLE = Reason(422, "unreadable_image", "the image is damaged or too large to be decoded")
BUSY = Reason(429, "busy", "too many requests wait; Retry-After says when to come again")
FAILED = Reason(500, "failed", "the server failed; its log has the request's id")
CLOSING = Reason(503, "closing", "the server is about to end")
LATE = Reason(504, "too_late", "the answer was not there in time")


@dataclass
class Refused(Exception):
    """A request is refused; the message is one line for whoever asked, without paths."""

    reason: Reason
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, request_id: str) -> dict[str, Any]:
        """What is sent."""
        return error_body(self.reason.code, self.message, request_id)


def error_body(code: str, message: str, request_id: str) -> dict[str, Any]:
    """The form that all errors have."""
    return {"error": {"code": code, "message": message, "request_id": request_id}}


def documented(*reasons: Reason) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, as OpenAPI lists them."""
    schema = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "request_id"],
                "properties": {
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "request_id": {"type": "string"},
                },
            }
        },
    }
    found: dict[int | str, dict[str, Any]] = {}
    for reason in reasons:
        content = {"application/json": {"schema": schema}}
        found[reason.status] = {"description": reason.about, "content": content}
    return found


OF_IMAGES = documented(  # of every route that images are sent to
    *(INVALID, UNAUTHORISED, SLOW, TOO_LARGE, NOT_AN_IMAGE, UNREADABLE, BUSY, FAILED, CLOSING, LATE)
)
