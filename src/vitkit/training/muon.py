"""Muon: steps whose directions all weigh the same (kellerjordan.github.io/posts/muon).

torch.optim.Muon has the same formula, but multiplies one matrix after the other and always in
bfloat16. On a CPU without such products its step takes as long as forward and backward of a batch.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from vitkit.runtime.device import gains_from_bf16

QUINTIC = (3.4445, -4.7750, 2.0315)  # a, b, c of a x + b x^3 + c x^5, steepest at zero
ROUNDS = 5
RMS = 0.2  # of AdamW's usual step (arXiv:2502.16982, section 2.2)

Closure = Callable[[], float]


class Muon(torch.optim.Optimizer):
    """Momentum made nearly orthogonal, as long as AdamW's step at the same `lr` (arXiv:2502.16982).

    Takes matrices, and kernels of convolutions as matrices, (out, in * k * k). Momentum is
    Nesterov's; weight decay is decoupled. The products are in bfloat16 where that is faster, else
    in the type of the weights.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """Change every parameter that has a gradient, all of one shape at once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches: dict[Any, list[tuple[Tensor, Tensor, float]]] = defaultdict(list)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            for parameter, direction in zip(params, self._momenta(group, params), strict=True):
                matrix = wide(direction)
                key = (matrix.shape, matrix.dtype, matrix.device)
                batches[key].append((parameter, matrix, group["lr"]))
        for batch in batches.values():
            _add_orthogonal(batch)
        return loss

    def _momenta(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        """Gradients moved towards their running means, in new tensors."""
        grads = [p.grad for p in params if p.grad is not None]
        means = [self._mean(p) for p in params]
        torch._foreach_lerp_(means, grads, 1 - group["momentum"])
        return list(torch._foreach_lerp(grads, means, group["momentum"]))

    def _mean(self, parameter: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


class MuonAdamW(torch.optim.Optimizer):
    """Muon for some groups and AdamW for the others, as one optimiser with one state.

    Groups with `muon=True` are Muon's. Each group has the options of its own optimiser.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float],
        weight_decay: float,
        momentum: float,
    ) -> None:
        rest = [group for group in groups if not group["muon"]]
        hidden = [group for group in groups if group["muon"]]
        self.optimizers: list[torch.optim.Optimizer] = []
        if rest:
            adamw = torch.optim.AdamW(rest, lr, betas, weight_decay=weight_decay, fused=True)
            self.optimizers.append(adamw)
        if hidden:
            muon = Muon(hidden, lr, weight_decay=weight_decay, momentum=momentum)
            self.optimizers.append(muon)
        super().__init__([group for o in self.optimizers for group in o.param_groups], {})
        self._share()

    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # with new groups and a new state
        self._share()

    def _share(self) -> None:
        """Give both optimisers the groups and the state that are ours."""
        groups = iter(self.param_groups)
        for optimizer in self.optimizers:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state


def wide(kernel: Tensor) -> Tensor:
    """A kernel as a matrix with no more rows than columns: (out, in * k * k) or transposed."""
    matrix = kernel.flatten(1)
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring singular values near 1: (n, rows, columns) -> the same.

    Those of at least 0.003 of a matrix's norm end between 0.68 and 1.21, smaller ones below that.
    Fastest with no more rows than columns.
    """
    a, b, c = QUINTIC
    x: Tensor = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT  # (n, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _add_orthogonal(batch: list[tuple[Tensor, Tensor, float]]) -> None:
    """Take a step with each (parameter, its wide momentum, learning rate)."""
    params = [parameter for parameter, _, _ in batch]
    stack = torch.stack([matrix for _, matrix, _ in batch])  # (n, rows, columns)
    fast = stack.dtype == torch.float32 and gains_from_bf16(stack.device)
    stack = orthogonalise(stack.bfloat16() if fast else stack).to(stack.dtype)
    length = RMS * stack.shape[-1] ** 0.5  # of the longer side: a root mean square of RMS
    steps = [
        (matrix.mT if len(parameter) > parameter[0].numel() else matrix).reshape(parameter.shape)
        for parameter, matrix in zip(params, stack, strict=True)
    ]
    scales = [-rate * length for _, _, rate in batch]
    torch._foreach_add_(params, torch._foreach_mul(steps, scales))
