"""The Open Inference Protocol, version 2, over HTTP (kserve.github.io, "V2 protocol").

One model, one version at a time. It takes images as tensors of pixels, `UINT8` of shape
[n, height, width, 3] in RGB, or as files, `BYTES` of shape [n] in base64, under the name `images`;
it gives `probabilities`, `FP32` of shape [n, K], and `labels`, `BYTES` of shape [n].
"""

import asyncio
import base64
import binascii
import math
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import Depends, FastAPI, Request
from numpy.typing import NDArray

import vitkit
from vitkit.serve.body import read_json
from vitkit.serve.refused import INVALID, NOT_FOUND, OF_IMAGES, Refused, documented
from vitkit.serve.served import Decoder, Pixels, Row, Served

if TYPE_CHECKING:
    from vitkit.serve.app import Server

INPUT, SHARES, LABELS = "images", "probabilities", "labels"
MOST = 64  # images of a request


def json_body(schema: dict[str, Any]) -> dict[str, Any]:
    """How OpenAPI describes a body that is read by hand."""
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def with_fields(required: list[str], **fields: Any) -> dict[str, Any]:
    """The schema of an object."""
    return {"type": "object", "required": required, "properties": fields}


TEXT = {"type": "string"}
LOAD_BODY = json_body(
    with_fields(["parameters"], parameters=with_fields(["checkpoint"], checkpoint=TEXT))
)
TENSOR = with_fields(
    ["name", "shape", "datatype", "data"],
    name={"const": INPUT},
    shape={"type": "array", "items": {"type": "integer", "minimum": 1}},
    datatype={"enum": ["UINT8", "BYTES"]},
    data={"type": "array"},
)
OUTPUT = with_fields(["name"], name={"enum": [SHARES, LABELS]})
INFER_BODY = json_body(
    with_fields(
        ["inputs"],
        id=TEXT,
        inputs={"type": "array", "items": TENSOR, "minItems": 1, "maxItems": 1},
        outputs={"type": "array", "items": OUTPUT, "minItems": 1},
    )
)


def named(served: Served) -> dict[str, str]:
    """Which model gave an answer."""
    return {"name": served.name, "version": str(served.version)}


def checkpoint_of(body: Any) -> str:
    """The checkpoint that a request to change the model names.

    Raises:
        Refused: it names none.
    """
    parameters = body.get("parameters") if isinstance(body, dict) else None
    path = parameters.get("checkpoint") if isinstance(parameters, dict) else None
    if not isinstance(path, str) or not path:
        raise Refused(INVALID, 'name a checkpoint: {"parameters": {"checkpoint": "runs/new"}}')
    return path


def find(server: "Server", name: str, version: str | None) -> Served:
    """The model that is served, if it is the one that is meant.

    Raises:
        Refused: it is not.
    """
    served = server.stage.served
    if name != served.name or version not in (None, str(served.version)):
        raise Refused(NOT_FOUND, f"no model is called {name!r} in such a version")
    return served


def add_routes(app: FastAPI, server: "Server") -> None:
    """`/v2`: health, metadata, inference."""
    add_metadata(app, server)
    add_inference(app, server)


def add_metadata(app: FastAPI, server: "Server") -> None:
    """What there is, and whether it answers."""

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the server runs."""
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        """Whether it answers."""
        return {"ready": True}

    @app.get("/v2")
    async def about() -> dict[str, Any]:
        """What the server is."""
        extensions = ["model_repository"] if server.token is not None else []
        return {"name": "vitkit", "version": vitkit.__version__, "extensions": extensions}

    @app.get("/v2/models/{name}/ready", responses=documented(NOT_FOUND))
    @app.get("/v2/models/{name}/versions/{version}/ready", responses=documented(NOT_FOUND))
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        """Whether a model answers."""
        return {**named(find(server, name, version)), "ready": True}

    @app.get("/v2/models/{name}", responses=documented(NOT_FOUND))
    @app.get("/v2/models/{name}/versions/{version}", responses=documented(NOT_FOUND))
    async def model(name: str, version: str | None = None) -> dict[str, Any]:
        """What a model takes and gives."""
        served = find(server, name, version)
        classes = len(served.classifier.classes)
        return {
            "name": served.name,
            "versions": [str(served.version)],
            "platform": f"vitkit_{served.classifier.architecture}",
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
            "outputs": [
                {"name": SHARES, "datatype": "FP32", "shape": [-1, classes]},
                {"name": LABELS, "datatype": "BYTES", "shape": [-1]},
            ],
        }


def add_inference(app: FastAPI, server: "Server") -> None:
    """Images in, shares of classes out."""
    common: dict[str, Any] = {
        "dependencies": [Depends(server.allow)],
        "responses": OF_IMAGES | documented(NOT_FOUND),
        "openapi_extra": INFER_BODY,
    }

    @app.post("/v2/models/{name}/infer", **common)
    @app.post("/v2/models/{name}/versions/{version}/infer", **common)
    async def infer(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
        """The share of each class, and the best class, of some images."""
        find(server, name, version)
        with server.stage.using() as served, server.room() as take, ExitStack() as stack:
            body = await read_json(request, server.limits, take)
            stack.enter_context(server.place())
            most = min(MOST, server.limits.waiting)
            outputs, files, request_id = _outputs(body), _files(body, most), _id(body)
            rows = await server.answered(request, shares_of(files, body, served, server.decode))
        shares = np.stack(rows)
        labels = [served.classifier.classes[i] for i in shares.argmax(axis=1)]
        given = {
            SHARES: _output(SHARES, "FP32", list(shares.shape), shares.ravel().tolist()),
            LABELS: _output(LABELS, "BYTES", [len(rows)], labels),
        }
        answer = {
            "model_name": served.name,
            "model_version": str(served.version),
            "outputs": [given[output] for output in outputs],
        }
        return answer | ({} if request_id is None else {"id": request_id})


async def shares_of(files: list[bytes], body: Any, served: Served, decode: Decoder) -> list[Row]:
    """The share of each class in every image of a request: of files, or of a tensor of pixels."""

    async def share(number: int, work: Awaitable[Pixels]) -> Row:
        try:
            return await served.probabilities(await work)
        except Refused as refused:
            raise replace(refused, message=f"image {number}: {refused.message}") from None

    fit = served.classifier.preprocess.fit
    works = [decode(each, served) for each in files] or [
        decode.run(partial(fit, np.ascontiguousarray(image)))
        for image in await decode.run(lambda: _tensor(body))
    ]
    return await all_of([share(i, work) for i, work in enumerate(works)])


def _output(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def _input(body: Any, most: int = MOST) -> dict[str, Any]:
    """The one tensor of a request, of at most so many images."""
    inputs = body.get("inputs") if isinstance(body, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refused(INVALID, f"inputs must be a list of one tensor, {INPUT!r}")
    tensor: dict[str, Any] = inputs[0]
    if tensor.get("name") != INPUT:
        raise Refused(INVALID, f"the model has one input, {INPUT!r}")
    shape: Any = tensor.get("shape")
    data = tensor.get("data")
    whole = isinstance(shape, list) and all(type(n) is int and n >= 1 for n in shape)
    if not whole or not isinstance(data, list):
        raise Refused(INVALID, f"{INPUT} needs a shape of whole numbers from 1, and data in a list")
    if shape[:1] and shape[0] > most:
        raise Refused(INVALID, f"a request may have {most} images, not {shape[0]}")
    return tensor


def _files(body: Any, most: int) -> list[bytes]:
    """The image files of a request; none where it has a tensor of pixels."""
    tensor = _input(body, most)
    if tensor.get("datatype") != "BYTES":
        return []
    data = tensor["data"]
    if tensor["shape"] != [len(data)] or not all(isinstance(each, str) for each in data):
        raise Refused(INVALID, f"{INPUT} of BYTES needs the shape [n], and n texts in base64")
    try:
        return [base64.b64decode(each, validate=True) for each in data]
    except (binascii.Error, ValueError):
        raise Refused(INVALID, f"{INPUT} of BYTES is no base64") from None


def _tensor(body: Any) -> NDArray[np.uint8]:
    """The pixels of a request, (n, H, W, 3)."""
    tensor = _input(body)
    shape = tensor["shape"]
    if tensor.get("datatype") != "UINT8" or len(shape) != 4 or shape[3] != 3:
        raise Refused(INVALID, f"{INPUT} must be UINT8 of shape [n, height, width, 3], or BYTES")
    values = np.fromiter(_pixels(tensor["data"]), np.uint8)
    if values.size != math.prod(shape):
        raise Refused(INVALID, f"{INPUT} has {values.size} numbers, and not those of its {shape}")
    return values.reshape(shape)


def _pixels(data: list[Any], depth: int = 4) -> Iterator[int]:
    """The numbers of a tensor, written as one list or as lists in lists."""
    nested = depth > 1 and isinstance(next(iter(data), None), list)
    for each in data:
        if nested and isinstance(each, list):
            yield from _pixels(each, depth - 1)
        elif not nested and type(each) is int and 0 <= each <= 255:
            yield each
        else:
            raise Refused(INVALID, f"{INPUT} has data that are no whole numbers in 0 to 255")


async def all_of(works: Sequence[Coroutine[Any, Any, Row]]) -> list[Row]:
    """What several come to; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _id(body: Any) -> str | None:
    """What the client calls its request, if anything."""
    given = body.get("id") if isinstance(body, dict) else None
    if given is None:
        return None
    if not isinstance(given, str) or not given.isprintable():  # half a character has no bytes
        raise Refused(INVALID, "id must be a text")
    return given


def _outputs(body: Any) -> list[str]:
    """The names of what is wanted, all if nothing is said."""
    wanted = body.get("outputs") if isinstance(body, dict) else None
    if wanted is None:
        return [SHARES, LABELS]
    listed = wanted if isinstance(wanted, list) else []
    names = [each.get("name") for each in listed if isinstance(each, dict)]
    if not names or len(names) < len(listed) or not all(name in (SHARES, LABELS) for name in names):
        raise Refused(INVALID, f"outputs may be a list of {SHARES!r} and {LABELS!r}")
    return [str(name) for name in names]
