"""A map over an image, its picture, and its file."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitkit import whole_file
from vitkit.errors import ConfigError
from vitkit.explain.picture import SIDE, colour, draw, enlarge, stretch


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """What part of an image a model's answer comes from, by one method."""

    image: NDArray[np.uint8]  # (h, w, 3), as the model saw it: resized and cropped
    grid: NDArray[np.float32]  # (h', w'), the method's own values
    method: str
    label: str  # the class that was asked about
    score: float  # the share that the model gives it, in [0, 1]
    against: str = ""  # the class that it was held against
    signed: bool = False  # values below 0 speak against the class
    for_class: bool = True  # the map depends on the class
    options: Mapping[str, Any] = field(default_factory=dict)  # of the method, those that were given

    @property
    def heatmap(self) -> NDArray[np.float32]:
        """The grid over the image, (h, w), values between cells in a straight line."""
        return stretch(self.grid, self.image.shape[:2])

    @property
    def cells(self) -> NDArray[np.float32]:
        """The grid over the image, (h, w), every pixel with the value of its cell."""
        return stretch(self.grid, self.image.shape[:2], smooth=False)

    def overlay(
        self, *, opacity: float = 0.6, smooth: bool = True, side: int = 0
    ) -> NDArray[np.uint8]:
        """The map in colours over the image in grey: (h, w, 3).

        An image whose longer side has fewer than `side` pixels is first enlarged in whole steps.

        Raises:
            ConfigError: `opacity` is not in [0, 1].
        """
        if not 0 <= opacity <= 1:
            raise ConfigError(f"opacity={opacity} is not in [0, 1]; try 0.6")
        image = enlarge(self.image, side)
        values = stretch(self.grid, image.shape[:2], smooth=smooth)
        grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
        mixed = (1 - opacity) * grey + opacity * colour(values, signed=self.signed)
        return np.rint(mixed).astype(np.uint8)

    @property
    def title(self) -> str:
        """Method, options and class in a few words."""
        options = f" ({self.settings})" if self.options else ""
        asked = f": {self.asked} ({self.score:.0%})" if self.for_class else ""
        return f"{self.method}{options}{asked}"

    @property
    def settings(self) -> str:
        """The options: `layer=3, head=0`."""
        return ", ".join(f"{key}={value}" for key, value in self.options.items())

    @property
    def asked(self) -> str:
        """What the map is about: `tulip against rose`; nothing where it is for no class."""
        against = f" against {self.against}" if self.against else ""
        return f"{self.label}{against}" if self.for_class else ""

    @property
    def note(self) -> str:
        """What one should know who looks at the map."""
        return "one cell: there are no places to tell apart" if self.grid.size == 1 else ""

    def save(self, path: str | Path, *, opacity: float = 0.6, smooth: bool = True) -> None:
        """Write a picture with its colour bar (.png), or the arrays (.npz).

        Raises:
            ConfigError: another suffix.
            OSError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".png":
            whole_file.write_bytes(path, self.png(opacity=opacity, smooth=smooth))
        elif path.suffix.lower() == ".npz":
            whole_file.write_bytes(path, self.npz())
        else:
            raise ConfigError(f"{path} is neither a .png nor a .npz; choose one of the two")

    def png(self, *, opacity: float = 0.6, smooth: bool = True) -> bytes:
        """A picture: the image, the map over it, and a bar that says what the colours mean."""
        overlay = self.overlay(opacity=opacity, smooth=smooth, side=SIDE)
        image = enlarge(self.image, SIDE)
        return draw(image, overlay, self.grid, title=self.title, signed=self.signed)

    def npz(self) -> bytes:
        """NumPy arrays `grid`, `heatmap` and `image`; and `about`, all else as JSON."""
        about = {
            "method": self.method,
            "label": self.label,
            "score": self.score,
            "against": self.against,
            "signed": self.signed,
            "for_class": self.for_class,
            "options": dict(self.options),
        }
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            grid=self.grid,
            heatmap=self.heatmap,
            image=self.image,
            about=json.dumps(about, default=int),  # whole numbers of NumPy
        )
        return buffer.getvalue()
