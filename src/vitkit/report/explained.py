"""The page of `vitkit explain`: images, and what speaks for a class in them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.classifier import Classifier, Prediction
from vitkit.errors import ConfigError
from vitkit.explain.explanation import Explanation
from vitkit.explain.methods import CONTROL, METHODS
from vitkit.explain.picture import colour
from vitkit.report import frame
from vitkit.report.inside import Inside, Said

PAGE = "explain.html"
SHOWN = 100  # images on the page; there is a picture of every one
STEPS = 32  # of a colour bar
SIDE = 288  # pixels of a map on the page, at least


@dataclass(frozen=True, slots=True)
class Explained:
    """One image with its maps."""

    name: str
    prediction: Prediction
    maps: Sequence[Explanation]
    number: int = 0  # of several with the same name
    thoughts: Sequence[Said] = ()  # what the head says block by block

    def file_of(self, method: str) -> str:
        """What the picture of a method is called, without its ending."""
        stem = re.sub(r"[^\w.-]+", "_", Path(self.name).stem) or "image"
        return f"{stem}{f'-{self.number}' if self.number else ''}-{method}"

    @property
    def asked(self) -> str:
        """What the maps are about: `tulip against rose`; nothing where none is for a class."""
        return next((each.asked for each in self.maps if each.asked), "")

    def to_json(self) -> dict[str, Any]:
        """The answer, and which pictures there are."""
        return {
            "file": self.name,
            "label": self.prediction.label,
            "score": self.prediction.score,
            "topk": [{"label": s.label, "score": s.score} for s in self.prediction.topk],
            "maps": [
                {
                    "method": each.method,
                    "options": dict(each.options),
                    "target": each.label if each.for_class else None,
                    "against": (each.against or None) if each.for_class else None,
                    "picture": f"{self.file_of(each.method)}.png",
                }
                for each in self.maps
            ],
        }


def place(checkpoint: str | Path, out: Path | None) -> Path:
    """Where pictures go: `out`, or a new `runs/explain-NAME`; nothing is made yet.

    Raises:
        ConfigError: `out` exists.
    """
    if out is not None:
        if out.exists():
            raise ConfigError(f"{out} exists already; choose another --out")
        return out
    stem = Path(str(checkpoint).rstrip("/")).name.partition("@")[0] or "model"
    names = (f"explain-{stem}" if n == 1 else f"explain-{stem}-{n}" for n in count(1))
    return next(path for name in names if not (path := Path("runs", name)).exists())


def write_explained(
    path: Path,
    explained: Sequence[Explained],
    classifier: Classifier,
    *,
    inner: Inside | None = None,
    raw: bool = False,
    opacity: float = 0.6,
) -> Path:
    """Write the page, whole or not at all."""
    text = render(explained, classifier, inner=inner, raw=raw, opacity=opacity)
    return frame.write_page(path, text)


def render(
    explained: Sequence[Explained],
    classifier: Classifier,
    *,
    inner: Inside | None = None,
    raw: bool = False,
    opacity: float = 0.6,
) -> str:
    """The page as text."""
    shown = explained[:SHOWN]
    return frame.render(
        "explained.html",
        explained=shown,
        images=len(explained),
        architecture=classifier.architecture,
        classes=len(classifier.classes),
        inside=inner,
        methods=METHODS,
        control=CONTROL,
        side=SIDE,
        ramps={signed: ramp(signed=signed) for signed in (False, True)},
        overlay=lambda one: one.overlay(opacity=opacity, smooth=not raw, side=SIDE),
    )


def ramp(*, signed: bool) -> list[tuple[int, ...]]:
    """The colours of a map from its least value to its most."""
    values = np.linspace(-1 if signed else 0, 1, STEPS)
    return [tuple(rgb) for rgb in colour(values, signed=signed).tolist()]
