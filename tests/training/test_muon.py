"""Muon against torch's own, and what it makes of singular values."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitkit.training import muon
from vitkit.training.muon import Muon, MuonAdamW, orthogonalise

SHAPES = [(6, 6), (18, 6), (6, 24), (24, 6), (6, 6)]


def matrices(shapes: list[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]


def give_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, dtype=torch.float64, generator=generator).to(p)


def test_singular_values_follow_the_quintic() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    s = s / x.norm(dim=(1, 2))[:, None]
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalise(x), u * s[:, None] @ v)


@pytest.mark.parametrize(("smallest", "bounds"), [(0.003, (0.68, 1.21)), (0.05, (0.68, 1.14))])
def test_singular_values_end_near_one(smallest: float, bounds: tuple[float, float]) -> None:
    s = torch.linspace(smallest, 0.25, 16, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))[0]
    s = s / s.norm()  # the smallest is larger by this
    found = torch.linalg.svdvals(orthogonalise((q * s)[None]))
    assert bounds[0] <= found.min() and found.max() <= bounds[1]


def test_zeros_stay() -> None:
    assert not orthogonalise(torch.zeros(2, 3, 4)).any()


def test_steps_equal_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, which torch's would leave for bfloat16."""
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)
    ours = matrices()
    theirs = copy.deepcopy(ours)
    settings: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3, "momentum": 0.9}
    optimizer = Muon(ours, **settings)
    reference = torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step()
        reference.step()
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_steps_in_bfloat16_are_torchs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "gains_from_bf16", lambda device: True)
    ours = [nn.Parameter(p.detach().float()) for p in matrices()]
    theirs = copy.deepcopy(ours)
    optimizer = Muon(ours, lr=1.0, weight_decay=0.0)
    reference = torch.optim.Muon(theirs, lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    before = [p.detach().clone() for p in ours]
    give_gradients(ours, 0)
    give_gradients(theirs, 0)
    optimizer.step()
    reference.step()
    for old, one, other in zip(before, ours, theirs, strict=True):
        torch.testing.assert_close(one - old, other - old, rtol=0.05, atol=0.05)
        assert not torch.equal(one, old)


@pytest.mark.parametrize(
    ("gains", "weights", "products"),
    [
        (True, torch.float32, torch.bfloat16),
        (False, torch.float32, torch.float32),
        (True, torch.float64, torch.float64),
        (False, torch.bfloat16, torch.bfloat16),
    ],
)
def test_products_are_in_bfloat16_where_it_is_faster(
    gains: bool, weights: torch.dtype, products: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return orthogonalise(x)

    monkeypatch.setattr(muon, "gains_from_bf16", lambda device: gains)
    monkeypatch.setattr(muon, "orthogonalise", spy)
    parameter = nn.Parameter(matrices()[0].detach().to(weights))
    give_gradients([parameter], 0)
    Muon([parameter]).step()
    assert seen == [products] and parameter.dtype == weights


def test_kernels_are_matrices_of_filters() -> None:
    kernel = matrices([(8, 3, 3, 3)])[0]
    flat = nn.Parameter(kernel.detach().flatten(1).clone())
    for parameter in (kernel, flat):
        optimizer = Muon([parameter], lr=0.1)
        give_gradients([kernel], 3)
        assert kernel.grad is not None
        flat.grad = kernel.grad.flatten(1).clone()
        optimizer.step()
    assert kernel.shape == (8, 3, 3, 3)
    torch.testing.assert_close(kernel.flatten(1), flat)


def test_groups_keep_their_own_rates() -> None:
    """Matrices of one shape go through one product; their rates must not mix."""
    first, second, third = matrices([(6, 4), (6, 4), (4, 6)])
    together = [first, second, third]
    alone = copy.deepcopy(together)
    rates = [0.1, 0.01, 0.5]
    optimizer = Muon([{"params": [p], "lr": r} for p, r in zip(together, rates, strict=True)])
    give_gradients(together, 0)
    give_gradients(alone, 0)
    optimizer.step()
    for parameter, rate in zip(alone, rates, strict=True):
        Muon([parameter], lr=rate).step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_a_step_is_as_long_as_adamws() -> None:
    square, wide = matrices([(64, 64), (32, 96)])
    before = [square.detach().clone(), wide.detach().clone()]
    optimizer = Muon([square, wide], lr=1.0, weight_decay=0.0)
    give_gradients([square, wide], 0)
    optimizer.step()
    for old, new in zip(before, (square, wide), strict=True):
        assert (new - old).square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def mixed(model: nn.Sequential, lr: float = 0.05) -> MuonAdamW:
    groups = [
        {"params": [model[0].weight, model[2].weight], "muon": True, "lr": lr / 2},
        {"params": [model[0].bias, model[2].bias], "muon": False},
    ]
    return MuonAdamW(groups, lr, betas=(0.9, 0.99), weight_decay=0.1, momentum=0.9)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 5, generator=generator)).square().sum().backward()
        optimizer.step()


def test_both_together_are_each_on_its_own() -> None:
    together = network()
    alone = copy.deepcopy(together)
    train(together, mixed(together), 3)
    hidden = Muon([alone[0].weight, alone[2].weight], 0.025, weight_decay=0.1, momentum=0.9)
    rest = torch.optim.AdamW(
        [alone[0].bias, alone[2].bias], 0.05, (0.9, 0.99), weight_decay=0.1, fused=True
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        alone.zero_grad()
        alone(torch.randn(4, 5, generator=generator)).square().sum().backward()
        hidden.step()
        rest.step()
    for one, other in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_changed_rates_reach_both() -> None:
    model = network()
    optimizer = mixed(model)
    before = [p.detach().clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_it_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    whole = network()
    half = copy.deepcopy(whole)
    optimizer, first = mixed(whole), mixed(half)
    train(whole, optimizer, 3)
    train(half, first, 3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = mixed(half, lr=0.9)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.state_dict()["param_groups"] == first.state_dict()["param_groups"]
    train(whole, optimizer, 3, seed=1)
    train(half, second, 3, seed=1)
    for one, other in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(one, other)
    for group in second.param_groups:  # which are still those of both optimisers
        group["lr"] = 0.0
    train(half, second, 1)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True)
    )


def test_gradients_are_cleared_everywhere() -> None:
    model = network()
    optimizer = mixed(model)
    train(model, optimizer, 1)
    assert all(p.grad is not None for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", ["muon", "both"])
def test_a_closure_gives_the_loss(kind: str) -> None:
    model = network()
    both = mixed(model)
    optimizer = both if kind == "both" else Muon([model[0].weight, model[2].weight])

    def closure() -> float:
        loss = model(torch.ones(1, 5)).square().sum()
        loss.backward()
        return loss.item()

    loss = optimizer.step(closure)
    assert loss is not None and loss > 0
