"""The learning rate over a run."""

import math

import pytest
import torch

from vitkit.training.config import resolve
from vitkit.training.loop import learning_rate
from vitkit.training.schedule import warmup_cosine


def rates(total: int, warmup: int, peak: float = 1.0, last: float = 0.1) -> list[float]:
    return [
        warmup_cosine(step, total=total, warmup=warmup, peak=peak, last=last)
        for step in range(total)
    ]


def test_it_rises_linearly_from_the_first_step() -> None:
    assert rates(100, 4)[:4] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("total", "warmup"), [(100, 4), (100, 0), (7, 2), (3, 1), (2, 0)])
def test_it_begins_to_fall_at_the_peak_and_ends_exactly(total: int, warmup: int) -> None:
    values = rates(total, warmup, peak=1e-3, last=1e-5)
    assert values[warmup] == 1e-3
    assert values[-1] == 1e-5
    assert values[warmup:] == sorted(values[warmup:], reverse=True)


def test_half_way_down_it_is_the_mean() -> None:
    assert rates(101, 0, peak=3.0, last=1.0)[50] == pytest.approx(2.0, abs=1e-15)


def test_a_single_step_has_the_peak() -> None:
    assert rates(1, 0) == [1.0]


def test_steps_past_the_end_stay_at_the_last_rate() -> None:
    assert warmup_cosine(500, total=100, warmup=4, peak=1.0, last=0.1) == pytest.approx(0.1)


def test_it_falls_as_torch_does() -> None:
    total, warmup, peak, last = 40, 7, 0.5, 0.02
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - 1 - warmup, eta_min=last)
    expected = []
    for _ in range(total - warmup):
        expected.append(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    assert rates(total, warmup, peak, last)[warmup:] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("overrides", "steps", "warmup"),
    [
        (["epochs=10", "warmup_epochs=2"], 5, 10),
        (["epochs=10", "warmup_epochs=0.5"], 10, 5),
        (["epochs=10", "warmup_epochs=0"], 5, 0),
        (["epochs=2", "warmup_epochs=9"], 5, 5),  # half of the run at most
    ],
)
def test_a_run_warms_up_for_its_epochs(overrides: list[str], steps: int, warmup: int) -> None:
    settings = resolve([*overrides, "lr=1", "min_lr=0.25"]).settings
    values = [learning_rate(settings, step, steps) for step in range(steps * settings.epochs)]
    assert values.index(1.0) == max(warmup - 1, 0)
    assert values[-1] == 0.25
    after = steps * settings.epochs - 1 - warmup
    expected = 0.25 + 0.75 * (1 + math.cos(math.pi / after)) / 2
    assert values[warmup + 1] == pytest.approx(expected, abs=1e-12)


def test_a_rate_below_the_last_one_stays_level() -> None:
    settings = resolve(["lr=1e-6", "min_lr=1e-5", "epochs=4", "warmup_epochs=0"]).settings
    assert {learning_rate(settings, step, 3) for step in range(12)} == {1e-6}
