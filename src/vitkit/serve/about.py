"""Routes that say what is served: the model, its positions, and images to try it with."""

import base64
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Path, Request

from vitkit.classifier import Classifier
from vitkit.errors import ConfigError
from vitkit.explain.control import CELL
from vitkit.explain.methods import CONTROL, METHODS, default_method, methods_for
from vitkit.explain.picture import PURPLE_ORANGE, VIRIDIS, Pixels, png
from vitkit.explain.positions import position_similarity, relative_biases
from vitkit.explain.sites import cell_side, find_sites, has_attention
from vitkit.models.swin import Swin
from vitkit.serve.body import check_parameters
from vitkit.serve.frame import Picture
from vitkit.serve.protocol import named
from vitkit.serve.refused import (
    BUSY,
    CLOSING,
    FAILED,
    INVALID,
    LATE,
    NOT_FOUND,
    UNAUTHORISED,
    Refused,
    documented,
)
from vitkit.serve.served import Served

SHUFFLES = 19  # enough for the spread by chance; of thousands of patches each takes half a second
MAPS = 16  # of patches down and across in a picture, at most

if TYPE_CHECKING:
    from vitkit.serve.app import Server


def add_routes(app: FastAPI, server: "Server") -> None:
    """`/about`, `/positions` and `/samples/{number}`."""
    allowed = [Depends(server.allow), Depends(check_parameters)]

    @app.get("/about", dependencies=allowed, responses=documented(INVALID, UNAUTHORISED, FAILED))
    async def about() -> dict[str, Any]:
        """The model: its classes, layers and methods; and the samples there are."""
        samples = [{"name": s.name, "label": s.label} for s in server.samples]
        return {
            **described(server.stage.served),
            "samples": samples,
            "megabytes": server.limits.megabytes,
        }

    @app.get(
        "/positions",
        dependencies=allowed,
        responses=documented(INVALID, UNAUTHORISED, BUSY, FAILED, CLOSING, LATE),
    )
    async def positions(request: Request) -> dict[str, Any]:
        """What the model has learned of places, in pictures."""
        with server.stage.using() as served, server.place():
            found = await server.answered(request, served.once(places_known))
            return {**found, "model": named(served)}

    @app.get(
        "/samples/{number}",
        dependencies=allowed,
        response_class=Picture,
        responses=documented(INVALID, UNAUTHORISED, NOT_FOUND, FAILED),
    )
    async def sample(number: Annotated[int, Path(ge=0, le=1000)]) -> Picture:
        """An image to try the model with, as a PNG."""
        if number >= len(server.samples):
            raise Refused(NOT_FOUND, f"there are {len(server.samples)} samples, from 0")
        return Picture(server.samples[number].picture)


def described(served: Served) -> dict[str, Any]:
    """A model, its classes, its attention layers, and how it can be explained."""
    classifier = served.classifier
    model, preprocess = classifier.model, classifier.preprocess
    attends = has_attention(model)
    sites = find_sites(model, preprocess.image_size) if attends else []
    return {
        "model": named(served),
        "architecture": classifier.architecture,
        "parameters": sum(p.numel() for p in model.parameters()),
        "classes": classifier.classes,
        "image_size": list(preprocess.image_size),
        "mean": list(preprocess.mean),  # what a covered cell is filled with, of values in [0, 1]
        "cell": cell_side(model) if attends else CELL,  # pixels; of what /ablate takes
        "layers": [
            {
                "name": site.name,
                "heads": site.num_heads,
                "grid": list(site.grid),
                "prefix": list(site.prefix),
            }
            for site in sites
        ],
        "methods": [
            {
                "name": name,
                "about": METHODS[name].about,
                "source": METHODS[name].source,
                "for_class": METHODS[name].for_class,
                "costly": METHODS[name].costly,
            }
            for name in methods_for(model)
        ],
        "default_method": default_method(model),
        "control": CONTROL,
        "colours": {"plain": VIRIDIS, "signed": PURPLE_ORANGE},
    }


def places_known(classifier: Classifier) -> dict[str, Any]:
    """The mosaic of position embeddings with its score, or biases by offset; or why there are none.

    A score near 1 means that likeness falls with distance in the image (`positions.Layout`).
    """
    model = classifier.model
    if isinstance(model, Swin):
        pictures = [in_text(bias.name, bias.picture()) for bias in relative_biases(model)]
        return {"kind": "biases", "pictures": pictures}
    try:
        similarity = position_similarity(model, classifier.preprocess.image_size)
        layout = similarity.layout(shuffles=SHUFFLES)
    except ConfigError as error:
        return {"kind": "none", "why": str(error), "pictures": []}
    every = -(-max(similarity.grid) // MAPS)
    return {
        "kind": "embeddings",
        "learned": getattr(model.config, "position", "learned") == "learned",
        "grid": list(similarity.grid),
        "score": layout.score,
        "shuffled_std": layout.shuffled_std,
        "every": every,
        "pictures": [in_text("embeddings", similarity.picture(every=every))],
    }


def in_text(name: str, pixels: Pixels) -> dict[str, str]:
    """A picture as a PNG in base64."""
    return {"name": name, "png": base64.b64encode(png(pixels)).decode()}
