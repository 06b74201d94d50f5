"""Every layout of tensors that we read, one file for each library."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vitkit.errors import ConfigError, WeightsError, nearest
from vitkit.models import build
from vitkit.models.backbone import Config
from vitkit.weights.formats import google, huggingface, official, timm, torchvision
from vitkit.weights.layout import Layout

# Where a file fits several as well, the first of them counts.
LAYOUTS: tuple[Layout, ...] = (
    *timm.LAYOUTS,
    *timm.OWN,
    *official.LAYOUTS,
    *huggingface.LAYOUTS,
    *torchvision.LAYOUTS,
    *google.LAYOUTS,
)
SOURCES = tuple(dict.fromkeys(layout.source for layout in LAYOUTS))


def detect(tensors: Mapping[str, Tensor], source: str | None = None) -> Layout:
    """The layout that knows the most of a file's names, of one `source` if that is given.

    Raises:
        ConfigError: no such source.
        WeightsError: no layout knows half of the names.
    """
    if source is not None and source not in SOURCES:
        known = ", ".join(SOURCES)
        raise ConfigError(f"format={source!r} is unknown{nearest(source, SOURCES)}; use {known}")
    best, share = LAYOUTS[0], -1.0
    for layout in LAYOUTS:
        if source in (None, layout.source) and (part := layout.share(tensors)) > share:
            best, share = layout, part
    if share < 0.5:
        some = ", ".join(list(tensors)[:3])
        raise WeightsError(f"no layout that we know has names such as {some}")
    return best


def layout_for(source: str, config: Config) -> Layout:
    """The layout in which a library writes a model.

    Raises:
        WeightsError: it has no names for this family.
    """
    with torch.device("meta"):
        names = list(build(config).state_dict())
    for layout in LAYOUTS:
        if layout.source == source and layout.writes(config) and all(map(layout.names, names)):
            return layout
    family = type(config).__name__.removesuffix("Config")
    raise WeightsError(f"{source} has no names for a {family} with these settings")
