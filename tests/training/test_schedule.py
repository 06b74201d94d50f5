"""The learning rate over a run."""

import math

import pytest
import torch

from vitkit.training.config import resolve
from vitkit.training.position import Position
from vitkit.training.schedule import Pace, Shape, learning_rate, pace, rise_and_fall


def rates(
    total: int, warmup: int, peak: float = 1.0, last: float = 0.1, kind: Shape = "cosine"
) -> list[float]:
    return [
        rise_and_fall(step, kind=kind, total=total, warmup=warmup, peak=peak, last=last)
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
    after = rise_and_fall(500, kind="cosine", total=100, warmup=4, peak=1.0, last=0.1)
    assert after == pytest.approx(0.1)


def test_a_line_falls_evenly_and_a_constant_not_at_all() -> None:
    assert rates(11, 0, 1.0, 0.0, "linear") == pytest.approx([1 - n / 10 for n in range(11)])
    assert rates(10, 2, 1.0, 0.0, "constant") == [0.5, *[1.0] * 9]


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
    total = steps * settings.epochs
    values = [learning_rate(settings, Pace(step, total)) for step in range(total)]
    assert values.index(1.0) == max(warmup - 1, 0)
    assert values[-1] == 0.25
    after = steps * settings.epochs - 1 - warmup
    expected = 0.25 + 0.75 * (1 + math.cos(math.pi / after)) / 2
    assert values[warmup + 1] == pytest.approx(expected, abs=1e-12)


def test_a_rate_below_the_last_one_stays_level() -> None:
    settings = resolve(["lr=1e-6", "min_lr=1e-5", "epochs=4", "warmup_epochs=0"]).settings
    assert {learning_rate(settings, Pace(step, 12)) for step in range(12)} == {1e-6}


def test_a_run_cools_down_at_the_last_rate() -> None:
    given = ["epochs=10", "cooldown_epochs=2", "warmup_epochs=0", "lr=1", "min_lr=0.25"]
    settings = resolve(given).settings
    values = [learning_rate(settings, Pace(step, 50)) for step in range(50)]
    assert values[38] > 0.25
    assert values[39:] == [0.25] * 11


def by_the_clock(seconds: float, step: int, **changes: float) -> Pace:
    settings = resolve({"minutes": 1.0, "epochs": 10, **changes}).settings
    return pace(settings, Position(step=step, seconds=seconds, before=6.0), 7, reserve=4.0)


def test_by_the_clock_the_time_used_foretells_the_steps() -> None:
    assert by_the_clock(10.0, 20).total == pytest.approx(20 + (60 - 6 - 10 - 4) * 2)
    assert by_the_clock(10.0, 20).share == pytest.approx(0.2)
    assert not by_the_clock(49.0, 98).finished
    assert by_the_clock(49.6, 98).finished  # another half second is more than is left
    assert by_the_clock(80.0, 98).finished
    assert by_the_clock(0.0, 0) == Pace(0, 70)  # the epochs, until a step is timed
    assert not by_the_clock(0.0, 0).finished


def test_a_first_step_that_compiles_foretells_nothing() -> None:
    """40 of 180 seconds: the rate still rises for a tenth of the steps that are left."""
    settings = resolve({"minutes": 3.0, "epochs": 10, "warmup_epochs": 1, "lr": 1.0}).settings
    position, rates = Position(), []
    while not (now := pace(settings, position, 7, reserve=0.0)).finished:
        rates.append(learning_rate(settings, now))
        position.step += 1
        position.seconds += 0.1 if position.first_steps else 40.0
        if not position.first_steps:
            position.first_steps, position.first_seconds = 1, 40.0
    assert 179.5 < position.seconds <= 180.1 and 1390 < len(rates) < 1410
    assert rates.index(max(rates)) == pytest.approx(140, abs=2)
    assert max(rates) > 0.99 and rates[-1] < 0.01 and all(rate < 0.2 for rate in rates[2:20])


def test_a_first_step_that_takes_all_the_time_is_the_last() -> None:
    settings = resolve({"minutes": 1.0}).settings
    position = Position(step=1, seconds=61.0, first_steps=1, first_seconds=61.0)
    assert pace(settings, position, 7, reserve=0.0).finished
    position.seconds = position.first_seconds = 50.0
    assert not pace(settings, position, 7, reserve=0.0).finished


def test_a_constant_rate_cools_down_too() -> None:
    given = {"schedule": "constant", "cooldown_epochs": 2, "warmup_epochs": 0, "min_lr": 0.25}
    settings = resolve({"epochs": 10, "lr": 1.0, **given}).settings
    values = [learning_rate(settings, Pace(step, 50)) for step in range(50)]
    assert values == [1.0] * 40 + [0.25] * 10


def test_by_the_clock_warmup_and_cooldown_keep_their_shares() -> None:
    settings = resolve({"minutes": 1.0, "epochs": 10, "warmup_epochs": 1, "lr": 1.0}).settings
    values = [
        learning_rate(settings, pace(settings, Position(step=n, seconds=n / 10), 7, reserve=0.0))
        for n in range(1, 600)
    ]
    assert values.index(max(values)) + 1 == 59  # a tenth of 600 steps
    assert values[-1] == pytest.approx(settings.min_lr, rel=1e-6)


def test_a_machine_that_slows_down_ends_on_time_with_a_low_rate() -> None:
    settings = resolve({"minutes": 1.0, "epochs": 10, "warmup_epochs": 0, "lr": 1.0}).settings
    position = Position()
    while not (now := pace(settings, position, 7, reserve=0.0)).finished:
        rate = learning_rate(settings, now)
        position.step += 1
        position.seconds += 0.1 if position.seconds < 30 else 0.7
    assert 58 < position.seconds < 60 + 0.7  # a step more or less
    assert rate < 0.01
