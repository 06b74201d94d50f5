"""Routes that look into the model: what it sees, maps, attention of a token, lens, ablation."""

import asyncio
import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from fastapi import Depends, FastAPI, Query, Request
from numpy.typing import NDArray
from starlette.responses import Response
from torch import Tensor

from vitkit.classifier import Classifier
from vitkit.explain.ablation import Cell, ablate
from vitkit.explain.around import LayerAround, Place, around
from vitkit.explain.lens import lens
from vitkit.explain.picture import png
from vitkit.serve import protocol
from vitkit.serve.body import IMAGE_BODY, Fitted
from vitkit.serve.refused import INVALID, OF_IMAGES, Refused
from vitkit.serve.served import Pixels

if TYPE_CHECKING:
    from vitkit.serve.app import Server

Label = Annotated[str | None, Query(max_length=1000)]
Listed = Annotated[str, Query(max_length=10_000)]


def add_routes(app: FastAPI, server: "Server") -> None:
    """`/view`, `/explain`, `/attention`, `/lens` and `/ablate`, which take an image file."""
    common: dict[str, Any] = {
        "dependencies": [Depends(server.allow)],
        "responses": OF_IMAGES,
        "openapi_extra": IMAGE_BODY,
    }

    async def looked(
        request: Request, fitted: bool, into: Callable[[Classifier, Pixels], dict[str, Any]]
    ) -> dict[str, Any]:
        async with server.place():
            served, pixels = await server.image(request, fitted=fitted)
            look = served.look(lambda classifier: into(classifier, pixels))
            return {**await server.answered(request, look), "model": protocol.named(served)}

    @app.post("/view", response_class=Picture, **common)
    async def view(request: Request) -> Picture:
        """What the model sees of an image, resized and cropped, as a PNG."""
        async with server.place():
            _, pixels = await server.image(request)
            drawing = asyncio.to_thread(picture_of, pixels)
            return Picture(await server.answered(request, drawing))

    @app.post("/explain", **common)
    async def explain(
        request: Request,
        method: Annotated[str | None, Query(max_length=64)] = None,
        target: Label = None,
        against: Label = None,
        fitted: Fitted = False,
    ) -> dict[str, Any]:
        """What in an image speaks for a class."""
        return await looked(request, fitted, lambda c, p: explained(c, p, method, target, against))

    @app.post("/attention", **common)
    async def attention(
        request: Request,
        token: Annotated[str | None, Query(max_length=16)] = None,
        down: Annotated[float, Query(ge=0, lt=1)] = 0.5,
        across: Annotated[float, Query(ge=0, lt=1)] = 0.5,
        fitted: Fitted = False,
    ) -> dict[str, Any]:
        """Where a token looks, and what looks at it, in every head of every layer.

        The token is that of a place, given as shares of the image, or a prefix token such as CLS.
        Weights come as bytes in base64, (heads, tokens), each head's 255 being its `most`.
        """
        at: Place | str = (down, across) if token is None else token
        return await looked(request, fitted, lambda c, p: looks(c, p, at))

    @app.post("/lens", **common)
    async def through_lens(
        request: Request, target: Label = None, fitted: Fitted = False
    ) -> dict[str, Any]:
        """What the head would say after every block: of what it reads, and of every cell."""
        return await looked(request, fitted, lambda c, p: read_through(c, p, target))

    @app.post("/ablate", **common)
    async def without(
        request: Request, cells: Listed = "", heads: Listed = "", fitted: Fitted = False
    ) -> dict[str, Any]:
        """What the model would say without some cells, `row.column`, and heads, `layer.head`.

        Both are lists with commas: `cells=0.1,2.3&heads=11.0`.
        """
        places, parts = pairs(cells, "cells"), pairs(heads, "heads")
        return await looked(request, fitted, lambda c, p: ablated(c, p, places, parts))


class Picture(Response):
    """A PNG."""

    media_type = "image/png"


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
        "target": found.label,
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
    label = classifier.predict_pixels(pixels, 1).label if target is None else target
    number = classifier.label_of(label)
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
        "target": label,
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
    classifier: Classifier, pixels: Pixels, cells: list[Cell], heads: list[Cell]
) -> dict[str, Any]:
    """Scores with and without, as JSON, the classes that change most first."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    effect = ablate(classifier.model, model_input(classifier, pixels), heads=by_layer, cells=cells)
    whole, without = (
        (logits[0].float() / classifier.temperature).softmax(dim=-1).cpu()
        for logits in (effect.whole, effect.ablated)
    )
    order = (without - whole).abs().argsort(descending=True).tolist()
    return {
        "classes": [
            {
                "label": classifier.classes[i],
                "score": float(whole[i]),
                "without": float(without[i]),
            }
            for i in order
        ]
    }


def model_input(classifier: Classifier, pixels: Pixels) -> Tensor:
    """One image, normalised, where the model is: (1, C, h, w)."""
    batch = torch.from_numpy(pixels)[None].to(classifier.engine.device)
    return classifier.preprocess.normalise(batch)


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
