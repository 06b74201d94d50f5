"""The optimiser and what it may decay."""

import torch

from vitkit.models.backbone import Backbone


def adamw(
    model: Backbone, *, lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) that decays matrices, but no vectors, positions or tokens."""
    spared = model.no_weight_decay()
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[parameter.ndim > 1 and name not in spared].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=lr,
        betas=betas,
        fused=True,
    )
