"""A model with some of its parts exchanged, while the model itself stays as it is."""

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def graft(model: Model, parts: Mapping[str, nn.Module]) -> Model:
    """A copy of a model with other modules in some places, by their dotted names.

    Only what leads to those places is copied: everything else, weights included, is the model's
    own. So others may use the model meanwhile, in any thread, and nothing has to be put back.

    Raises:
        AttributeError: a name that the model does not have.
    """
    for name in parts:
        model.get_submodule(name)
    return _graft(model, {tuple(name.split(".")): part for name, part in parts.items()})


def _graft(module: Model, parts: Mapping[tuple[str, ...], nn.Module]) -> Model:
    made = copy.copy(module)
    made._modules = dict(module._modules)  # which `copy` shares
    for child in dict.fromkeys(name[0] for name in parts):
        below = {name[1:]: part for name, part in parts.items() if name[0] == child}
        inside = made._modules[child]
        assert inside is not None  # else the name would not have been found
        made._modules[child] = below[()] if () in below else _graft(inside, below)
    return made


class Kept(nn.Module):
    """A module whose result is kept in passing, under a number."""

    def __init__(self, module: nn.Module, kept: dict[int, Tensor], number: int) -> None:
        super().__init__()
        self.module, self.kept, self.number = module, kept, number

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x)
        self.kept[self.number] = out
        return out
