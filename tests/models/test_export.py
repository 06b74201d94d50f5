"""Every family as one graph, with any batch: torch.export and torch.compile against eager runs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitkit.models import CONFIGS, FAMILIES, create_model

# The smallest model of each family that still has all of its parts.
TINY: dict[str, dict[str, Any]] = {
    "vit_base_patch16_224": {"patch_size": 8, "dim": 16, "depth": 2, "num_heads": 2},
    "deit_base_distilled_patch16_224": {"patch_size": 8, "dim": 16, "depth": 2, "num_heads": 2},
    "vitc_1gf_224": {"stem": (4, 8), "dim": 16, "depth": 1, "num_heads": 2},
    "vit_base_r50_s16_224": {"depths": (1, 1), "dim": 16, "depth": 1, "num_heads": 2},
    "vit_base_resnet50_224": {"depths": (1, 1, 1, 1), "dim": 16, "depth": 1, "num_heads": 2},
    "cct_7_3x1_32": {"dim": 16, "depth": 2, "num_heads": 2, "conv_layers": 2},
    "swin_tiny_patch4_window7_224": {"dim": 8, "depths": (2, 2), "num_heads": (1, 2)},
    "swinv2_tiny_window8_256": {
        **{"dim": 8, "depths": (2, 2), "num_heads": (1, 2)},
        **{"window_size": 7, "pretrained_window_sizes": (0, 0)},
    },
    "resnet50": {"dim": 8, "depths": (1, 2, 1, 1)},
    "resnet18": {"dim": 8, "depths": (1, 1, 1, 1)},
    "regnety_002": {},
    "convnet_3_32": {},
}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TINY),
    ("vit_base_patch16_224", {"pool": "attention", "qk_norm": True, "registers": 2}),
    ("vit_base_patch16_224", {"pool": "cls_mean", "position": "sincos_2d", "layer_scale": 0.1}),
]
SIZE = (64, 96)


def tiny(name: str, options: dict[str, Any] | None = None) -> nn.Module:
    """A small model in evaluation mode, none of whose parameters is zero."""
    torch.manual_seed(0)
    model = create_model(name, image_size=SIZE, num_classes=3, **TINY[name] | (options or {}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def test_every_family_is_here() -> None:
    assert {type(CONFIGS[name]) for name in TINY} == FAMILIES.keys()


@torch.no_grad()
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_export(name: str, options: dict[str, Any]) -> None:
    model = tiny(name, options)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    example = (torch.randn(2, 3, *SIZE),)
    program = torch.export.export(model, example, dynamic_shapes=(batch,), strict=False).module()
    for count in (1, 2, 5):
        x = torch.randn(count, 3, *SIZE)
        torch.testing.assert_close(program(x), model(x))


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_compile(name: str, options: dict[str, Any]) -> None:
    """One graph for batches of every size, forward and backward."""
    check_compiled(tiny(name, options), "eager")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", TINY)
def test_compile_to_code(name: str, backend: str) -> None:
    check_compiled(tiny(name), backend)


def check_compiled(model: nn.Module, backend: str) -> None:
    """Logits and gradients are those of the model itself, whatever the size of the batch.

    The model is traced once; inductor alone may write code again, as its guards ask of a sum's size
    whether it needs a better way to add (torch/_inductor/codegen/cpp.py, need_use_acc_helper). In
    float32 a ReLU so near to its kink that rounding decides on its gradient would do as much.
    """
    model = model.double()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=backend != "inductor"):
        for count in (2, 3):
            x = torch.randn(count, 3, *SIZE, dtype=torch.float64)
            torch._dynamo.mark_dynamic(x, 0)
            given, expected = (gradients(run, model, x) for run in (compiled, model))
            torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-9)


def gradients(run: Any, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Logits, and the gradients of all parameters."""
    model.zero_grad()
    logits = run(x)
    logits.square().sum().backward()
    named = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **named}
