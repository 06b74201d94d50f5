"""The HTTP API: images in, answers out."""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

import vitkit
from vitkit.classifier import Classifier, load
from vitkit.errors import VitkitError
from vitkit.serve import about, looking, page, protocol
from vitkit.serve.body import (
    IMAGE_BODY,
    Fitted,
    Take,
    check_parameters,
    gone,
    read_image,
    read_json,
)
from vitkit.serve.frame import Frame, handle_errors
from vitkit.serve.measures import Measures
from vitkit.serve.refused import (
    BUSY,
    FAILED,
    FORBIDDEN,
    INVALID,
    LATE,
    NOT_FOUND,
    OF_IMAGES,
    SLOW,
    TOO_LARGE,
    UNAUTHORISED,
    Refused,
    documented,
)
from vitkit.serve.samples import Sample
from vitkit.serve.served import Decoder, Pixels, Served, Stage
from vitkit.serve.settings import Limits

Result = TypeVar("Result")
log = logging.getLogger("vitkit.serve")


class Server:
    """One application: what it serves, and its limits."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        name: str,
        limits: Limits,
        token: str | None = None,
        samples: Sequence[Sample] = (),
    ) -> None:
        self.first, self.name, self.limits, self.token = classifier, name, limits, token
        self.samples = samples
        self.measures = Measures(lambda: self.stage.served.queued)
        self.inside = 0  # requests that bring an image
        self.bytes = 0  # of bodies, so far

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """From the first request to the last."""
        self.decode = Decoder(self.limits)
        self.stage = Stage(self.make)
        await self.stage.put_on(self.first, self.name)
        try:
            yield
        finally:
            await self.stage.close()
            self.decode.close()

    def make(self, classifier: Classifier, name: str, version: int) -> Served:
        """A version of the model, within this server's limits."""
        told = self.measures.batch
        return Served(classifier, name=name, version=version, limits=self.limits, told=told)

    def allow(self, request: Request) -> None:
        """Let in who has the token, where there is one.

        Raises:
            Refused: it is missing or wrong.
        """
        if self.token is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.encode(), self.token.encode())
        if kind.lower() != "bearer" or not right:
            raise Refused(
                UNAUTHORISED,
                "send the server's token as `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": "Bearer"},
            )

    async def answered(self, request: Request, work: Awaitable[Result]) -> Result:
        """What comes of some work, unless it takes too long or whoever asked leaves.

        Raises:
            Refused: too late.
            ClientDisconnect: nobody is there to be answered.
        """
        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone(request))
        try:
            await asyncio.wait(
                (working, leaving),
                timeout=self.limits.seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if working.done():
                return working.result()
            if leaving.done():
                raise ClientDisconnect
            raise Refused(LATE, f"the answer was not there within {self.limits.seconds:g} s")
        finally:
            working.cancel()
            leaving.cancel()

    def turn_away(self) -> None:
        """Before a byte of an upload is read.

        Raises:
            Refused: all places are taken.
        """
        if self.inside >= self.limits.waiting:
            raise Refused(BUSY, "too many requests wait; try again in 1 s", {"Retry-After": "1"})

    @contextmanager
    def room(self) -> Iterator[Take]:
        """Room for the body of a request until it is answered, to be taken as its bytes come."""
        self.turn_away()
        most, mine = round(self.limits.waiting_megabytes * 1e6), 0

        def take(count: int) -> None:
            nonlocal mine
            if self.bytes > mine and self.bytes + count > most:  # one alone may bring what it may
                raise Refused(BUSY, "too many bytes wait; try again in 1 s", {"Retry-After": "1"})
            self.bytes += count
            mine += count

        try:
            yield take
        finally:
            self.bytes -= mine

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place inside, for a request that is there as a whole.

        Slow uploads hold none: else a few hundred would keep everybody else out.

        Raises:
            Refused: all are taken.
        """
        self.turn_away()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def of_image(
        self,
        request: Request,
        ask: Callable[[Served, Pixels], Awaitable[Result]],
        *,
        fitted: bool = False,
    ) -> tuple[Served, Result]:
        """Who answers a request that brings an image, and what is found in it."""
        with self.stage.using() as served, self.room() as take:
            data = await read_image(request, self.limits, take)
            with self.place():

                async def found() -> Result:
                    return await ask(served, await self.decode(data, served, fitted=fitted))

                return served, await self.answered(request, found())


def make_app(
    classifier: Classifier,
    *,
    name: str,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    samples: Sequence[Sample] = (),
) -> FastAPI:
    """An application that serves a classifier under a name.

    With a `token` only who sends it is answered, but for health, metrics, the page's files and
    what describes the API. With `hosts` only requests to those names are: a page of a stranger
    cannot reach a server on the same machine under a name of its own. `samples` are images that
    the page offers.
    """
    server = Server(classifier, name=name, limits=limits or Limits(), token=token, samples=samples)
    app = FastAPI(
        title="vitkit",
        version=vitkit.__version__,
        summary="Image classification by a model of vitkit",
        lifespan=server.lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.server = server
    handle_errors(app)
    page.add_routes(app)
    about.add_routes(app, server)
    add_images(app, server)
    looking.add_routes(app, server)
    protocol.add_routes(app, server)
    add_measures(app, server)
    app.add_middleware(GZipMiddleware, compresslevel=1)  # maps in base64 shrink by a third
    app.add_middleware(Frame, measures=server.measures, hosts=hosts)
    return app


def add_images(app: FastAPI, server: Server) -> None:
    """`/predict` and `/embed`, which take an image file."""
    allowed = [Depends(server.allow), Depends(check_parameters)]

    @app.post("/predict", dependencies=allowed, responses=OF_IMAGES, openapi_extra=IMAGE_BODY)
    async def predict(
        request: Request,
        topk: Annotated[int, Query(ge=1, le=1000)] = 5,
        fitted: Fitted = False,
    ) -> dict[str, Any]:
        """The best classes of an image."""
        served, row = await server.of_image(
            request, lambda served, pixels: served.probabilities(pixels), fitted=fitted
        )
        best = served.classifier.prediction(row, topk)
        return {
            "label": best.label,
            "score": best.score,
            "topk": [{"label": s.label, "score": s.score} for s in best.topk],
            "model": protocol.named(served),
        }

    @app.post("/embed", dependencies=allowed, responses=OF_IMAGES, openapi_extra=IMAGE_BODY)
    async def embed(request: Request, fitted: Fitted = False) -> dict[str, Any]:
        """The pooled features of an image."""
        served, row = await server.of_image(
            request, lambda served, pixels: served.features(pixels), fitted=fitted
        )
        return {"embedding": row.tolist(), "model": protocol.named(served)}


def add_measures(app: FastAPI, server: Server) -> None:
    """`/metrics`, and the change of the model."""

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """What the server counts, for Prometheus."""
        return Response(server.measures.text(), media_type=server.measures.content_type)

    @app.post(
        "/v2/repository/models/{name}/load",
        dependencies=[Depends(server.allow)],
        responses=documented(INVALID, UNAUTHORISED, FORBIDDEN, NOT_FOUND, SLOW, TOO_LARGE, FAILED),
        openapi_extra=protocol.LOAD_BODY,
    )
    async def change(request: Request, name: str) -> dict[str, Any]:
        """Serve another checkpoint from now on; what was asked is answered by the one before."""
        if server.token is None:
            raise Refused(FORBIDDEN, "the model changes only where the server has a --token")
        if name != server.stage.served.name:
            raise Refused(
                NOT_FOUND, f"no model is called {name!r}; it is {server.stage.served.name!r}"
            )
        path = protocol.checkpoint_of(await read_json(request, server.limits))
        server.first = await asyncio.to_thread(open_checkpoint, path, server)
        return protocol.named(await server.stage.put_on(server.first, name))


def open_checkpoint(path: str, server: Server) -> Classifier:
    """A classifier that can take the place of the one that is served.

    Raises:
        Refused: it cannot be opened.
    """
    engine = server.stage.served.classifier.engine
    try:
        found = load(Path(path), device=str(engine.device), precision=engine.precision)
    except (VitkitError, OSError, ValueError) as error:  # a name that no file can have
        log.warning("a checkpoint was asked for and cannot be opened: %r", str(error))
        raise Refused(
            INVALID, "the checkpoint cannot be opened; the server's log says why"
        ) from None
    if not found.classes:
        raise Refused(INVALID, "the checkpoint has no head, so no answers; name a classifier's")
    return found
