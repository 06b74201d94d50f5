"""LAMB: large batches by a step that each layer scales to its own weights (arXiv:1904.00962)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class LAMB(torch.optim.Optimizer):
    """Adam whose step, for each tensor, is as long as `lr` times the tensor (algorithm 2).

    Weight decay is part of the step that is scaled. The scaling is |w| / |step| without the bounds
    that the paper leaves open, and 1 where either is zero. Groups with `adapt=False` are not
    scaled, as in the authors' code for biases and norms: their step is Adam's.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "adapt": adapt, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change every parameter that has a gradient, all of a group at once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] += 1
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                steps = self._directions(group, params)
                if group["adapt"]:
                    torch._foreach_mul_(steps, trust(params, steps))
                torch._foreach_add_(params, steps, alpha=-group["lr"])
        return loss

    def _directions(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        """Adam's steps with weight decay, of length 1 rather than `lr`, in new tensors."""
        grads = [p.grad for p in params if p.grad is not None]
        means = [self._moment(p, "exp_avg") for p in params]
        squares = [self._moment(p, "exp_avg_sq") for p in params]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, (1 - beta2 ** group["step"]) ** 0.5)
        torch._foreach_add_(denominators, group["eps"])
        steps: list[Tensor] = list(torch._foreach_div(means, 1 - beta1 ** group["step"]))
        torch._foreach_div_(steps, denominators)
        torch._foreach_add_(steps, params, alpha=group["weight_decay"])
        return steps

    def _moment(self, parameter: Tensor, name: str) -> Tensor:
        state: dict[str, Tensor] = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        return state[name]


def trust(params: list[Tensor], steps: list[Tensor]) -> list[Tensor]:
    """How often each step goes into its tensor, |w| / |step|; 1 where either is zero."""
    weights = torch.stack(torch._foreach_norm(params))
    lengths = torch.stack(torch._foreach_norm(steps))
    ratios = torch.where((weights > 0) & (lengths > 0), weights / lengths, 1.0)
    return list(ratios.unbind())
