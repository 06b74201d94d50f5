"""The part of an image that is wanted, before the image is decoded."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class View:
    """The part of an upright image that is wanted, in pixels, and the size that will do for it."""

    top: int
    left: int
    height: int
    width: int
    least: tuple[int, int]  # height and width; what is larger may come at 1/2, 1/4 or 1/8

    @property
    def divisor(self) -> int:
        """The largest of JPEG's reductions that leaves at least `least`."""
        room = min(self.height / self.least[0], self.width / self.least[1])
        return max(divisor for divisor in (1, 2, 4, 8) if divisor <= max(room, 1))

    def box(self, divisor: int = 1) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in the reduced image; edges between pixels go outwards."""
        ends = (self.left + self.width, self.top + self.height)
        right, bottom = (-(-end // divisor) for end in ends)
        return self.left // divisor, self.top // divisor, right, bottom


Viewer = Callable[[int, int], View]  # of height and width


def cut(image: NDArray[np.uint8], view: Viewer) -> NDArray[np.uint8]:
    """The part of an image, (H, W, 3), that `view` chooses: (h, w, 3)."""
    left, top, right, bottom = view(*image.shape[:2]).box()
    return image[top:bottom, left:right]
