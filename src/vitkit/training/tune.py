"""Which part of a model is trained: the heads alone, or low-rank adapters beside them.

Both freeze the rest: frozen parameters need no gradient, no optimiser state, and never change.
"""

import copy
from collections.abc import Iterator

from torch import nn

from vitkit.errors import ConfigError
from vitkit.layers.attention import Attention
from vitkit.layers.cosine_window import CosineWindowAttention
from vitkit.layers.lora import LoRALinear
from vitkit.layers.mlp import Mlp
from vitkit.layers.window import WindowAttention
from vitkit.models.backbone import Backbone

ADAPTED_ATTENTION = (Attention, WindowAttention, CosineWindowAttention)


def head(model: Backbone) -> None:
    """Freeze all but the classifiers: a linear probe.

    Raises:
        ConfigError: the model has no classifier.
    """
    if model.num_classes == 0:
        raise ConfigError("num_classes=0 leaves no head to train; set the number of classes")
    model.requires_grad_(False)
    for name in model.classifiers:
        model.get_submodule(name).requires_grad_(True)


def lora(model: Backbone, *, rank: int = 8, alpha: float = 16.0, mlp: bool = False) -> None:
    """Freeze all but the classifiers and new low-rank adapters (arXiv:2106.09685).

    Those are of `qkv` and `proj` of every attention, with `mlp` also of both layers of every MLP.
    Queries, keys and values share one A, where the paper has one for each. The logits stay at first
    what they were.

    Raises:
        ConfigError: a model without attention, or with adapters already, or a rank that the
            narrowest layer does not allow.
    """
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ConfigError("the model has low-rank adapters already; merge them first")
    names = list(_adaptable(model, mlp=mlp))
    if not names:
        family = type(model).__name__
        raise ConfigError(f"a {family} has no attention for low-rank adapters; fine-tune all of it")
    adapted = {}
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        adapted[name] = LoRALinear(linear, rank, alpha)
    head(model)
    for name, module in adapted.items():
        model.set_submodule(name, module)


def merge_lora(model: Backbone) -> Backbone:
    """The model without adapters, which its matrices take in; itself if it has none.

    A plain copy, all of it to be trained, with the names of plain weights and the same logits to
    rounding.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, LoRALinear)]
    if not names:
        return model
    plain = copy.deepcopy(model)
    for name in names:
        module = plain.get_submodule(name)
        assert isinstance(module, LoRALinear)
        plain.set_submodule(name, module.merged())
    return plain.requires_grad_(True)


def set_training_mode(model: Backbone) -> None:
    """Like `model.train()`, but what is frozen stays as in evaluation.

    Batch norms of a frozen part keep their statistics; if only the heads learn, nothing of the rest
    is dropped either.
    """
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    model.train(any(not name.startswith(model.classifiers) for name in learning))
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """How many numbers learn, and how many the model has."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def _adaptable(model: Backbone, *, mlp: bool) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, ADAPTED_ATTENTION):
            yield from (f"{name}.qkv", f"{name}.proj")
        elif mlp and isinstance(module, Mlp):
            yield from (f"{name}.fc1", f"{name}.fc2")
