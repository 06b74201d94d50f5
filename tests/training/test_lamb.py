"""LAMB against timm's, and its steps by the paper's formula."""

import copy

import pytest
import timm.optim
import torch
from torch import nn

from vitkit.training.lamb import LAMB


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(4, 5, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("weight_decay", "adapt"),
    [(0.0, True), (0.0, False), (0.3, True)],  # timm adapts whatever decays
)
def test_steps_equal_timms(weight_decay: float, adapt: bool) -> None:
    ours = network()
    theirs = copy.deepcopy(ours)
    settings = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": weight_decay}
    optimizer = LAMB(ours.parameters(), **settings, adapt=adapt)
    reference = timm.optim.Lamb(
        theirs.parameters(), **settings, always_adapt=adapt, max_grad_norm=None, foreach=False
    )
    for _ in range(5):
        train(ours, optimizer, 1)
        train(theirs, reference, 1)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_each_tensor_moves_by_lr_times_its_own_length() -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    train(model, LAMB(model.parameters(), lr=0.01, weight_decay=0.2), 1)
    for old, new in zip(before, model.parameters(), strict=True):
        assert (new - old).norm().item() == pytest.approx(0.01 * old.norm().item(), rel=1e-9)


def test_a_tensor_of_zeros_moves_like_adams() -> None:
    zero = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    still = nn.Parameter(torch.ones(3, dtype=torch.float64))
    zero.grad, still.grad = torch.full_like(zero, -5.0), torch.zeros_like(still)
    LAMB([zero, still], lr=0.1, weight_decay=0.0, eps=1e-12).step()
    torch.testing.assert_close(zero.detach(), torch.full_like(zero, 0.1), rtol=1e-6, atol=0)
    assert torch.equal(still, torch.ones_like(still))


def test_parameters_without_gradient_stay() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, LAMB(model.parameters(), lr=0.1), 3)
    assert torch.equal(model[0].weight, before)


def test_it_goes_on_where_it_was_saved() -> None:
    whole = network()
    half = copy.deepcopy(whole)
    optimizer = LAMB(whole.parameters(), lr=0.05)
    train(whole, optimizer, 3)
    first = LAMB(half.parameters(), lr=0.05)
    train(half, first, 3)
    second = LAMB(half.parameters(), lr=0.7)
    second.load_state_dict(first.state_dict())
    train(whole, optimizer, 2)
    train(half, second, 2)
    for one, other in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_closure_gives_the_loss() -> None:
    model = network()
    optimizer = LAMB(model.parameters(), lr=0.05)

    def closure() -> float:
        loss = model(torch.ones(1, 5, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss.item()

    loss = optimizer.step(closure)
    assert loss is not None and loss > 0
