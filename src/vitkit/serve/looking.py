"""Routes that look into the model: what it sees, maps, attention of a token, lens, ablation."""

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from fastapi import Depends, FastAPI, Query, Request
from numpy.typing import NDArray
from torch import Tensor

from vitkit.classifier import Classifier
from vitkit.explain.ablation import Cell, ablate
from vitkit.explain.around import LayerAround, Place, around
from vitkit.explain.lens import lens
from vitkit.explain.methods import METHODS
from vitkit.explain.picture import png
from vitkit.serve import protocol
from vitkit.serve.body import IMAGE_BODY, Fitted, check_parameters
from vitkit.serve.frame import Picture
from vitkit.serve.refused import INVALID, OF_IMAGES, Refused
from vitkit.serve.served import Pixels, Served

if TYPE_CHECKING:
    from vitkit.serve.app import Server

Label = Annotated[str | None, Query(max_length=1000)]
Listed = Annotated[str, Query(max_length=10_000)]
MOST_CELLS = 1 << 20  # that a request may name


async def looked(
    server: "Server",
    request: Request,
    fitted: bool,
    into: Callable[[Classifier, Pixels], dict[str, Any]],
    *,
    costly: bool = False,
) -> dict[str, Any]:
    """What a function finds in the model with the image of a request, and in which model."""

    async def look(served: Served, pixels: Pixels) -> dict[str, Any]:
        return await served.look(lambda classifier: into(classifier, pixels), costly=costly)

    served, found = await server.of_image(request, look, fitted=fitted)
    return {**found, "model": protocol.named(served)}


def add_routes(app: FastAPI, server: "Server") -> None:
    """`/view`, `/explain`, `/attention`, `/lens` and `/ablate`, which take an image file."""
    common: dict[str, Any] = {
        "dependencies": [Depends(server.allow), Depends(check_parameters)],
        "responses": OF_IMAGES,
        "openapi_extra": IMAGE_BODY,
    }
    add_maps(app, server, common)
    add_inside(app, server, common)


def add_maps(app: FastAPI, server: "Server", common: dict[str, Any]) -> None:
    """What the model sees, and what in it speaks for a class."""

    @app.post("/view", response_class=Picture, **common)
    async def view(request: Request) -> Picture:
        """What the model sees of an image, resized and cropped, as a PNG."""

        async def draw(served: Served, pixels: Pixels) -> bytes:
            return await server.decode.run(lambda: picture_of(pixels))

        return Picture((await server.of_image(request, draw))[1])

    @app.post("/explain", **common)
    async def explain(
        request: Request,
        method: Annotated[str | None, Query(max_length=64)] = None,
        target: Label = None,
        against: Label = None,
        fitted: Fitted = False,
    ) -> dict[str, Any]:
        """What in an image speaks for a class."""
        costly = method is not None and method in METHODS and METHODS[method].costly
        return await looked(
            server,
            request,
            fitted,
            lambda c, p: explained(c, p, method, target, against),
            costly=costly,
        )


def add_inside(app: FastAPI, server: "Server", common: dict[str, Any]) -> None:
    """Attention of a token, the lens, and ablation."""

    @app.post("/attention", **common)
    async def attention(
        request: Request,
        token: Annotated[str | None, Query(max_length=16)] = None,
        down: Annotated[float | None, Query(ge=0, lt=1)] = None,
        across: Annotated[float | None, Query(ge=0, lt=1)] = None,
        fitted: Fitted = False,
    ) -> dict[str, Any]:
        """Where a token looks, and what looks at it, in every head of every layer.

        The token is that of a place, given as shares of the image, or a prefix token such as CLS;
        without either, of the middle. Weights come as bytes in base64, (heads, tokens), each
        head's 255 being its `most`.
        """
        at: Place | str = place_of(down, across) if token is None else token
        if token is not None and (down is not None or across is not None):
            raise Refused(INVALID, f"token={token!r} has no place; leave down and across out")
        return await looked(server, request, fitted, lambda c, p: looks(c, p, at))

    @app.post("/lens", **common)
    async def through_lens(
        request: Request, target: Label = None, fitted: Fitted = False
    ) -> dict[str, Any]:
        """What the head would say after every block: of what it reads, and of every cell."""
        return await looked(server, request, fitted, lambda c, p: read_through(c, p, target))

    @app.post("/ablate", **common)
    async def without(
        request: Request,
        cells: Listed = "",
        heads: Listed = "",
        topk: Annotated[int, Query(ge=1, le=1000)] = 10,
        fitted: Fitted = False,
    ) -> dict[str, Any]:
        """What the model would say without some cells, `row.column`, and heads, `layer.head`.

        Both are lists with commas: `cells=0.1,2.3&heads=11.0`; cells may be rectangles from corner
        to corner: `cells=0.0:3.7`. The `topk` classes that change most are told.
        """
        places, parts = rectangles(cells), pairs(heads, "heads")
        return await looked(
            server, request, fitted, lambda c, p: ablated(c, p, places, parts, topk)
        )


def place_of(down: float | None, across: float | None) -> Place:
    """A place, the middle where nothing is said.

    Raises:
        Refused: half of it is said.
    """
    if down is None and across is None:
        return 0.5, 0.5
    if down is None or across is None:
        raise Refused(INVALID, "a place needs both down and across")
    return down, across


def picture_of(pixels: Pixels) -> bytes:
    """A model input, (C, h, w), as a PNG that /predict and the others take as `fitted`."""
    return png(np.broadcast_to(pixels.transpose(1, 2, 0), (*pixels.shape[1:], 3)))


def explained(
    classifier: Classifier,
    pixels: Pixels,
    method: str | None,
    target: str | None,
    against: str | None,
) -> dict[str, Any]:
    """A map, as JSON."""
    found = classifier.explain_pixels(pixels, method, target, against=against)
    return {
        "method": found.method,
        "target": found.label if found.for_class else None,
        "against": found.against or None,
        "score": found.score,
        "signed": found.signed,
        "grid": found.grid.tolist(),
        "image_size": list(found.image.shape[:2]),
    }


def looks(classifier: Classifier, pixels: Pixels, at: Place | str) -> dict[str, Any]:
    """Attention around a token, as JSON."""
    layers = around(classifier.model, model_input(classifier, pixels), at)
    return {"layers": [layer_to_json(layer) for layer in layers]}


def layer_to_json(layer: LayerAround) -> dict[str, Any]:
    """One layer, its weights in bytes."""
    return {
        "name": layer.name,
        "grid": list(layer.grid),
        "prefix": list(layer.prefix),
        "token": layer.token,
        "heads": len(layer.looks),
        "looks": in_bytes(layer.looks),
        "seen": in_bytes(layer.seen),
    }


def in_bytes(weights: NDArray[np.float32]) -> dict[str, Any]:
    """Weights of heads, (H, T), as bytes of which 255 is the head's greatest."""
    most = weights.max(axis=1, keepdims=True)
    scaled = np.divide(255 * weights, most, out=np.zeros_like(weights), where=most > 0)
    data = np.rint(scaled).astype(np.uint8).tobytes()
    return {"most": most[:, 0].tolist(), "data": base64.b64encode(data).decode()}


def read_through(classifier: Classifier, pixels: Pixels, target: str | None) -> dict[str, Any]:
    """The lens, as JSON: the best class after every block, and a class's share in every cell."""
    x = model_input(classifier, pixels)
    if target is None:
        number = int(classifier.engine.probabilities(torch.from_numpy(pixels)[None])[0].argmax())
    else:
        number = classifier.label_of(target)
    seen = lens(classifier.model, x, classes=(number,), temperature=classifier.temperature)
    path = seen.trajectory(torch.tensor([number], device=x.device))
    steps = zip(
        path.blocks,
        path.best[0].tolist(),
        path.best_share[0].tolist(),
        path.share[0].tolist(),
        seen.maps(number)[0].tolist(),
        strict=True,
    )
    return {
        "target": classifier.classes[number],
        "blocks": [
            {
                "name": name,
                "label": classifier.classes[best],
                "score": score,
                "target_score": share,
                "cells": cells,
            }
            for name, best, score, share, cells in steps
        ],
    }


def ablated(
    classifier: Classifier, pixels: Pixels, cells: list[Cell], heads: list[Cell], topk: int
) -> dict[str, Any]:
    """What is said without, and scores with and without of those that change most, as JSON."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    effect = ablate(classifier.model, model_input(classifier, pixels), heads=by_layer, cells=cells)
    whole, without = (
        (logits[0].float() / classifier.temperature).softmax(dim=-1).cpu()
        for logits in (effect.whole, effect.ablated)
    )
    order = (without - whole).abs().argsort(descending=True)[:topk].tolist()
    best = int(without.argmax())
    return {
        "label": classifier.classes[best],
        "score": float(without[best]),
        "classes": [
            {
                "label": classifier.classes[i],
                "score": float(whole[i]),
                "without": float(without[i]),
            }
            for i in order
        ],
    }


def model_input(classifier: Classifier, pixels: Pixels) -> Tensor:
    """One image, normalised, where the model is: (1, C, h, w)."""
    batch = torch.from_numpy(pixels)[None].to(classifier.engine.device)
    return classifier.preprocess.normalise(batch)


def rectangles(text: str) -> list[Cell]:
    """`0.1,2.3:4.5` as cells; of a rectangle all from the first corner to the last.

    Raises:
        Refused: it is of another form, or larger than any grid.
    """
    found: list[Cell] = []
    for each in filter(None, text.split(",")):
        corners = pairs(each.replace(":", ",", 1), "cells")
        if not corners:
            raise Refused(INVALID, f"cells: {each!r} is no pair of numbers such as 0.3")
        (top, left), (bottom, right) = corners[0], corners[-1]
        if (bottom - top + 1) * (right - left + 1) > MOST_CELLS - len(found):
            raise Refused(INVALID, f"cells: {each!r} is larger than any image")
        rows, columns = range(top, bottom + 1), range(left, right + 1)
        found += [(row, column) for row in rows for column in columns]
    return found


def pairs(text: str, what: str) -> list[Cell]:
    """`0.1,2.3` as pairs of whole numbers.

    Raises:
        Refused: it is of another form.
    """
    found = []
    for each in filter(None, text.split(",")):
        first, dot, second = each.partition(".")
        if not (dot and first.isdecimal() and second.isdecimal() and len(each) < 12):
            raise Refused(INVALID, f"{what}: {each!r} is no pair of numbers such as 0.3")
        found.append((int(first), int(second)))
    return found
