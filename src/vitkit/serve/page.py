"""The page: files that a browser is sent, and what it may do with them."""

import hashlib
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import FastAPI, Request
from starlette.responses import Response

from vitkit.report.frame import asset
from vitkit.serve.refused import NOT_FOUND, Refused

POLICY = "; ".join(  # only what this server itself sends is shown or run
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
SHARED = "chart.css"  # colours of reports: the page has the same


class File:
    """A file of the page, and a name for its content."""

    def __init__(self, name: str, text: str) -> None:
        self.content = text.encode()
        self.kind = KINDS[name[name.rindex(".") :]]
        self.tag = f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'

    def answer(self, request: Request) -> Response:
        """The file, or that the browser has it already."""
        headers = {
            "etag": self.tag,
            "cache-control": "no-cache",  # ask each time: a newer vitkit has newer files
            "content-security-policy": POLICY,
        }
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.kind, headers=headers)


def add_routes(app: FastAPI) -> None:
    """`/` and the files it needs, under `/page/`."""
    files = load_files()

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        """The page."""
        return files["index.html"].answer(request)

    @app.get("/page/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        """A style or a script of the page."""
        if name not in files:
            raise Refused(NOT_FOUND, "the page has no such file")
        return files[name].answer(request)


def load_files() -> dict[str, File]:
    """All of them by name."""
    folder: Traversable = resources.files("vitkit.serve").joinpath("browser")
    found = {
        each.name: File(each.name, each.read_text("utf-8"))
        for each in folder.iterdir()
        if each.name.endswith(tuple(KINDS))
    }
    return found | {SHARED: File(SHARED, asset(SHARED))}
