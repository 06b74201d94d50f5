"""Every method by its name, and a map of any of them."""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from vitkit.errors import ConfigError, nearest
from vitkit.explain.attention import attention, gradient_rollout, rollout
from vitkit.explain.control import control
from vitkit.explain.gradients import gradcam, integrated_gradients
from vitkit.explain.occlusion import occlusion
from vitkit.explain.relevance import legrad, relevance
from vitkit.explain.sites import has_attention
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

CONTROL = "random"
LARGEST = torch.finfo(torch.float32).max
KINDS = {int: "a whole number", float: "a finite number", type(None): "None"}


@dataclass(frozen=True, slots=True)
class Method:
    """What a method needs and gives."""

    run: Callable[..., Tensor]
    about: str  # one sentence
    source: str
    for_class: bool = True  # the map depends on the class that is asked about
    signed: bool = False  # values below 0 speak against the class
    attention: bool = True  # reads attention maps
    costly: bool = False  # runs the model dozens of times

    @property
    def options(self) -> tuple[str, ...]:
        """What can be set, by name."""
        return tuple(self.parameters)

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The same with what each may be and is by default."""
        return dict([*signature(self.run).parameters.items()][3:])


METHODS: Mapping[str, Method] = {
    "attention": Method(
        attention,
        "Where the tokens that are read out look in one layer, the last unless another is named.",
        "arXiv:1706.03762",
        for_class=False,
    ),
    "rollout": Method(
        rollout,
        "Attention through all layers, half of each past it by the residual.",
        "arXiv:2005.00928",
        for_class=False,
    ),
    "gradient_rollout": Method(
        gradient_rollout,
        "The same of attention times its gradient, where that speaks for the class.",
        "arXiv:2005.00928, weighted by gradients",
    ),
    "relevance": Method(
        relevance,
        "Attention times its gradient, collected through all layers.",
        "arXiv:2103.15679",
    ),
    "legrad": Method(
        legrad,
        "How each layer's attention moves what that layer would answer.",
        "arXiv:2404.03214",
    ),
    "gradcam": Method(
        gradcam,
        "The last features, weighted by their mean gradient.",
        "arXiv:1610.02391",
        attention=False,
    ),
    "integrated_gradients": Method(
        integrated_gradients,
        "What each pixel adds on the way from an even image to this one.",
        "arXiv:1703.01365",
        signed=True,
        attention=False,
        costly=True,
    ),
    "occlusion": Method(
        occlusion,
        "How far the score falls with a square over each place.",
        "arXiv:1311.2901",
        signed=True,
        attention=False,
        costly=True,
    ),
    CONTROL: Method(
        control, "Random numbers: the control.", "none", for_class=False, attention=False
    ),
}


def default_method(model: Backbone) -> str:
    """The method that is taken where none is named."""
    return "relevance" if has_attention(model) else "gradcam"


def methods_for(model: Backbone) -> tuple[str, ...]:
    """The methods that can be applied to a model."""
    attends = has_attention(model)
    return tuple(name for name, method in METHODS.items() if attends or not method.attention)


def find_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """A method by its name.

    Raises:
        ConfigError: there is none of that name, or it has no such option, where the nearest is
            named; or an option's value is of another kind than the method takes.
    """
    if name not in METHODS:
        hint = nearest(name, METHODS)
        raise ConfigError(f"no method is called {name!r}{hint}; there are {', '.join(METHODS)}")
    method = METHODS[name]
    for key, value in (options or {}).items():
        if key not in method.options:
            hint, known = nearest(key, method.options), ", ".join(method.options) or "none"
            raise ConfigError(f"{name} has no option {key!r}{hint}; it has {known}")
        parameter = method.parameters[key]
        if not _is(value, parameter.annotation):
            said, usual = _in_words(parameter.annotation), parameter.default
            raise ConfigError(
                f"{key}={reprlib.repr(value)} of {name} is not {said}; by default it is {usual}"
            )
    return method


def _is(value: Any, annotation: Any) -> bool:
    """Whether an option of that annotation may have a value; neither True nor False is a number."""
    if get_origin(annotation) is UnionType:
        return any(_is(value, one) for one in get_args(annotation))
    if get_origin(annotation) is Literal:
        return isinstance(value, str) and value in get_args(annotation)
    if isinstance(value, bool):
        return annotation is bool
    if annotation is int:
        return isinstance(value, int | np.integer)
    if annotation is float:
        return isinstance(value, int | float) and -LARGEST <= value <= LARGEST
    return isinstance(value, annotation)


def _in_words(annotation: Any) -> str:
    """What `_is` asks for: `a whole number or None`, `mean, max or min`."""
    several = get_args(annotation) or (annotation,)
    *others, last = (KINDS.get(one) or getattr(one, "__name__", one) for one in several)
    return f"{', '.join(others)} or {last}" if others else str(last)


def explain_batch(
    model: Backbone, x: Tensor, method: str, target: Target, **options: Any
) -> Tensor:
    """A map of each image by a method: (B, C, H, W) -> (B, h, w) float32, h and w the method's own.

    The model is neither changed nor slowed for others who use it meanwhile.

    Raises:
        ConfigError: an unknown method or option, a value out of range, a method that cannot be
            applied to the model, or a model in training, whose answers are random and change it.
    """
    found = find_method(method, options)
    if model.training:
        raise ConfigError("a model in training cannot be explained; call model.eval() first")
    with torch.inference_mode(False):
        x = x.clone() if x.is_inference() else x
        target = target.clone()
        return found.run(model, x, target, **options).detach().float()
