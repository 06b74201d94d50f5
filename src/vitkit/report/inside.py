"""What goes on inside a model, for the page of `vitkit explain`."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.classifier import Classifier
from vitkit.explain.heads import Heads, measure_heads
from vitkit.explain.lens import lens
from vitkit.explain.norms import token_norms
from vitkit.explain.sites import has_attention
from vitkit.report.contents import Positions
from vitkit.report.curves import Axis, Chart, epoch_ticks, scatter
from vitkit.report.looks import positions

LOOKED_AT = 16  # images that heads and norms are measured on


@dataclass(frozen=True, slots=True)
class Said:
    """What the head says after some blocks in a row: the same class."""

    first: int  # blocks, from 1
    last: int
    label: str
    score: float  # the share after the last of them, in [0, 1]


@dataclass(frozen=True, slots=True)
class Inside:
    """What some images show of a model."""

    images: int
    distance: Chart | None  # how far every head looks
    evenness: Chart | None  # and how evenly
    warning: str  # of tokens that stand out; empty without any
    positions: Positions | None


def inside(classifier: Classifier, pixels: Sequence[NDArray[np.uint8]]) -> Inside | None:
    """Heads, norms and positions of a model, on the first of some model inputs, each (C, h, w).

    None of a model without attention.
    """
    if not has_attention(classifier.model) or not pixels:
        return None
    x = _input(classifier, pixels[:LOOKED_AT])
    batches = x.split(4)  # maps of all heads take memory
    heads = measure_heads(classifier.model, batches)
    warnings = [token_norms(classifier.model, batch).warning for batch in batches]
    return Inside(
        images=len(x),
        distance=_chart("attention distance, pixels", heads, "distance", "{:.0f} px"),
        evenness=_chart("evenness, share of the highest entropy", heads, "evenness", "{:.0%}"),
        warning=next(filter(None, warnings), ""),
        positions=positions(classifier),
    )


def thoughts(classifier: Classifier, pixels: NDArray[np.uint8]) -> list[Said]:
    """What the head would say of an image, (C, h, w), after every block; none without tokens."""
    if not has_attention(classifier.model):
        return []
    x = _input(classifier, [pixels])
    seen = lens(classifier.model, x, classes=(), temperature=classifier.temperature)
    shares = seen.read[0].softmax(dim=-1)  # (L, K)
    best = enumerate(zip(*(t.tolist() for t in shares.max(dim=-1)), strict=True), 1)
    found = []
    for label, run in groupby(best, key=lambda each: each[1][1]):
        blocks = list(run)
        score = blocks[-1][1][0]
        found.append(Said(blocks[0][0], blocks[-1][0], classifier.classes[label], score))
    return found


def _input(classifier: Classifier, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    batch = torch.from_numpy(np.stack(pixels)).to(classifier.engine.device)
    return classifier.preprocess.normalise(batch)


def _chart(title: str, heads: Heads, what: str, form: str) -> Chart | None:
    layers = len(heads.layers)
    axis = Axis("block", 1, layers, tuple((n, str(n)) for n in epoch_ticks(1, layers)))
    points = [
        (float(number), float(value))
        for number, layer in enumerate(heads.layers, 1)
        for value in getattr(layer, what)
    ]
    return scatter(title, points, axis, form.format)
