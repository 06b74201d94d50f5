"""A server in a thread of this process, and a browser that opens its page."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Literal

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (  # without the last five a browser asks for hosts on its own
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
Scheme = Literal["light", "dark"]
SECONDS = 30  # until something must have happened, on a machine that does other work too


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """An application behind a free port of this machine, and its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium, without a screen; a test without it is skipped."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip("no Chromium on this machine; install Debian's package chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(
    browser: Browser, address: str, *, width: int = 1280, scheme: Scheme = "light"
) -> Iterator[Page]:
    """The page, in a window of its own.

    At the end nothing must have gone wrong in it, and nobody else have been asked.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(1000 * SECONDS)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Security" in line.text else None)
    page.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))
    page.on("request", lambda request: wrong.append(request.url) if foreign(request.url) else None)
    root = address.partition("#")[0].rstrip("/")

    def foreign(url: str) -> bool:
        return not url.startswith((root, "blob:", "data:"))

    try:
        page.goto(address)
        yield page
    finally:
        context.close()
    assert not wrong
