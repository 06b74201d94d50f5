"""The weights that a new model starts with."""

from torch import nn


def truncated_normal(module: nn.Module) -> None:
    """Weights of a linear layer of deviation 0.02, its bias zero, as timm starts ViTs and Swins."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
