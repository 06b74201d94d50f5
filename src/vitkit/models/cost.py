"""What a model costs: parameters, and multiply-accumulates for one image."""

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitkit.models import build, find_config, source
from vitkit.models.backbone import Config


@dataclass(frozen=True, slots=True)
class Cost:
    """The size of one published model."""

    name: str
    parameters: int
    macs: int  # multiply-accumulates of matrix products and convolutions, for one image
    image_size: tuple[int, int]  # pixels, height and width
    source: str

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


def cost(name: str) -> Cost:
    """Count on torch's meta device, where nothing is computed or stored.

    Raises:
        ConfigError: no model has this name.
    """
    config = find_config(name)
    parameters, macs = _count(config)
    return Cost(
        name=name,
        parameters=parameters,
        macs=macs,
        image_size=config.image_size,
        source=source(name),
    )


@functools.cache
def _count(config: Config) -> tuple[int, int]:
    """Parameters and multiply-accumulates; several names share one configuration."""
    with torch.device("meta"):
        model = build(config).eval()
        image = torch.empty(1, config.in_channels, *config.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, counter.get_total_flops() // 2
