"""How often something is done: `500 steps`, `10 minutes`, `2 epochs`."""

import re
from dataclasses import dataclass
from typing import Literal, cast

RULE = "write '500 steps', '10 minutes' or '1 epoch'"


@dataclass(frozen=True, slots=True)
class Every:
    """How often: `500 steps`, `10 minutes`, `2 epochs`."""

    number: float
    unit: Literal["step", "minute", "epoch"]

    @classmethod
    def parse(cls, text: str) -> "Every | None":
        """Read what a setting says; None if it breaks the `RULE`."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(step|minute|epoch)s?", text.strip())
        number = float(match[1]) if match else 0.0
        if match is None or not number or (match[2] != "minute" and number % 1):
            return None
        return cls(number, cast(Literal["step", "minute", "epoch"], match[2]))
