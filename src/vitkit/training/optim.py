"""The optimiser of a model: which parameters decay, how fast each layer learns, and what steps."""

from collections import defaultdict
from typing import Any, Literal

import torch
from torch import nn

from vitkit.errors import ConfigError
from vitkit.models.backbone import Backbone
from vitkit.training.lamb import LAMB
from vitkit.training.muon import MuonAdamW

OptimizerName = Literal["adamw", "lamb", "sgd", "muon"]


def make_optimizer(
    model: Backbone,
    *,
    name: OptimizerName,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float | None = None,
    muon_lr: float | None = None,
    kernel_lr: float | None = None,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """An optimiser of everything in the model that is not frozen.

    Each group has an `lr_scale`: whoever changes the learning rate sets `lr` to the rate times
    that. The heads come first, at the full rate. `momentum` is of `sgd`, by default 0.9, and of
    `muon`, by default 0.95; `muon_lr` is the rate of hidden matrices when all else has `lr`, by
    default the same, and `kernel_lr` that of the kernels of convolutions among them.

    `adamw` is arXiv:1711.05101 and `lamb` arXiv:1904.00962; `sgd` adds weight decay to the
    gradient, as in arXiv:1512.03385; `muon` has AdamW beside it (kellerjordan.github.io/posts/muon,
    arXiv:2502.16982).

    Raises:
        ConfigError: an unknown name, a frozen model, or a `layer_decay` that is not in (0, 1].
    """
    muon_lr = lr if muon_lr is None else muon_lr
    kernel_lr = muon_lr if kernel_lr is None else kernel_lr
    scales = (muon_lr / lr, kernel_lr / lr) if name == "muon" else None
    groups = parameter_groups(
        model, weight_decay=weight_decay, layer_decay=layer_decay, muon_scales=scales
    )
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, lr, betas, weight_decay=weight_decay, fused=True)
        case "lamb":
            return LAMB(groups, lr, betas=betas, weight_decay=weight_decay)
        case "sgd":
            speed = 0.9 if momentum is None else momentum
            fused = not hasattr(groups[0]["params"][0], "full_tensor")  # torch has none for shards
            return torch.optim.SGD(groups, lr, speed, weight_decay=weight_decay, fused=fused)
        case "muon":
            speed = 0.95 if momentum is None else momentum
            return MuonAdamW(groups, lr, betas=betas, weight_decay=weight_decay, momentum=speed)
    raise ConfigError(f"optimizer={name!r} is unknown; choose adamw, lamb, sgd or muon")


def parameter_groups(
    model: Backbone,
    *,
    weight_decay: float,
    layer_decay: float = 1.0,
    muon_scales: tuple[float, float] | None = None,
) -> list[dict[str, Any]]:
    """What is not frozen, in groups that learn alike: `params`, `weight_decay`, `lr_scale`, ...

    Matrices and kernels decay; vectors, positions and tokens do not, nor does LAMB adapt their
    steps (`adapt`). Each layer learns at `layer_decay` times the rate of the next one, the heads at
    the full rate, as BEiT is fine-tuned (arXiv:2106.08254). With `muon_scales`, hidden matrices are
    `muon` groups and learn at so many times the rate of others in their layer, the second for
    kernels.

    Raises:
        ConfigError: everything is frozen, or `layer_decay` is not in (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay={layer_decay} is not in (0, 1]; try 0.75, or 1 for none")
    layers, spared = model.layer_of_parameters(), model.no_weight_decay()
    hidden = hidden_matrices(model) if muon_scales is not None else set()
    of_matrices, of_kernels = muon_scales or (1.0, 1.0)
    heads = max(layers.values())
    groups: dict[tuple[bool, bool, int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            muon, vector = name in hidden, parameter.ndim < 2 or name in spared
            below = heads - layers[name] if layer_decay < 1 else 0
            groups[muon, muon and parameter.ndim == 4, below, vector].append(parameter)
    if not groups:
        raise ConfigError("every parameter of the model is frozen; leave the head to be trained")
    return [
        {
            "params": groups[muon, kernel, below, vector],
            "weight_decay": 0.0 if vector else weight_decay,
            "lr_scale": layer_decay**below
            * ((of_kernels if kernel else of_matrices) if muon else 1.0),
            "adapt": not vector,
            "muon": muon,
        }
        for muon, kernel, below, vector in sorted(groups)  # the same whatever the rates are
    ]


def hidden_matrices(model: Backbone) -> set[str]:
    """Names of the parameters that Muon is for: matrices inside blocks, kernels of convolutions.

    Not those of the first convolution, which sees pixels, nor of the heads and what pools, nor
    tables of positions, nor the kernels of grouped convolutions, whose filters see different
    channels and so make no matrix.
    """
    layers, pixels = model.layer_of_parameters(), model.config.in_channels
    heads = max(layers.values())
    others = model.no_weight_decay() | _grouped_kernels(model)
    return {
        name
        for name, parameter in model.named_parameters()
        if name not in others
        and (
            (parameter.ndim > 1 and 0 < layers[name] < heads)
            or (parameter.ndim == 4 and layers[name] == 0 and parameter.shape[1] != pixels)
        )
    }


def _grouped_kernels(model: nn.Module) -> set[str]:
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
    }
