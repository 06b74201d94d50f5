"""Which images an epoch shows, against timm's samplers and the definitions."""

from collections import Counter
from typing import Any

import pytest
import torch
from timm.data.distributed_sampler import RepeatAugSampler
from torch import Tensor

from vitkit.training.config import resolve
from vitkit.training.sampling import Examples, balanced, batches, steps_per_epoch
from vitkit.training.settings import TrainSettings


def settings_with(**changes: Any) -> TrainSettings:
    return resolve({"batch_size": 16, **changes}).settings


def examples(counts: list[int], skip: int = 0) -> Examples:
    """As many images of each class as given; every `skip`-th row is of another split."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    rows = [row for row in range(len(labels)) if not skip or row % skip]
    return Examples(
        torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8), labels, torch.tensor(rows)
    )


def order(train: Examples, settings: TrainSettings, epoch: int = 0) -> list[int]:
    return torch.cat(batches(train, settings, epoch)).tolist()


def per_class(train: Examples, shown: list[int]) -> list[int]:
    return torch.bincount(train.labels[shown]).tolist()


@pytest.mark.parametrize("counts", [[30, 30], [61, 2, 17], [1, 1, 1], [100]])
def test_plainly_every_row_comes_once(counts: list[int]) -> None:
    train = examples(counts, skip=7)
    assert sorted(order(train, settings_with())) == train.rows.tolist()
    assert len(batches(train, settings_with(), 0)) == steps_per_epoch(len(train), settings_with())


@pytest.mark.parametrize("counts", [[30, 30], [61, 2, 17], [1, 1, 98], [100, 3], [5, 4, 3, 2, 1]])
def test_balanced_classes_come_equally_often(counts: list[int]) -> None:
    train, settings = examples(counts, skip=7), settings_with(**{"data.balanced": True})
    present = train.labels[train.rows].unique().tolist()
    for epoch in range(5):
        shown = order(train, settings, epoch)
        assert len(shown) == len(train)
        assert set(shown) <= set(train.rows.tolist())
        seen = [per_class(train, shown)[label] for label in present]
        assert max(seen) - min(seen) <= 1


def test_over_balanced_epochs_no_class_comes_more_often() -> None:
    """Of 150 images in 100 classes half come twice in an epoch, each time another half."""
    labels = torch.arange(100).repeat_interleave(4)
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(100)
    for _ in range(100):
        seen += torch.bincount(labels[balanced(labels, 150, generator)], minlength=100)
    assert seen.min() > 125 and seen.max() < 175  # 150 with a deviation of 5


def test_fewer_balanced_places_than_classes() -> None:
    labels = torch.arange(6).repeat_interleave(2)
    shown = balanced(labels, 4, torch.Generator().manual_seed(0))
    assert len(labels[shown].unique()) == 4
    train, settings = (
        examples([2] * 6),
        settings_with(**{"data.balanced": True, "augment.repeats": 3}),
    )
    assert len(order(train, settings)) == 12


def test_a_balanced_class_shows_all_of_its_images_before_one_comes_again() -> None:
    train, settings = examples([61, 5, 17]), settings_with(**{"data.balanced": True})
    for epoch in range(3):
        times = Counter(order(train, settings, epoch))
        for label in range(3):
            members = [row for row in train.rows.tolist() if train.labels[row] == label]
            often = [times[row] for row in members]
            assert max(often) - min(often) <= 1


def test_over_balanced_epochs_every_image_of_a_large_class_comes() -> None:
    train, settings = examples([90, 10]), settings_with(**{"data.balanced": True})
    shown = {row for epoch in range(12) for row in order(train, settings, epoch)}
    assert shown == set(train.rows.tolist())  # 1 - (1 - 50 / 90)^12: all but one in 17,000


def test_a_balanced_batch_is_mixed() -> None:
    train = examples([320, 320])
    for rows in batches(train, settings_with(**{"data.balanced": True}), 0):
        assert 1 <= int((train.labels[rows] == 0).sum()) <= 15


@pytest.mark.parametrize("changes", [{}, {"data.balanced": True}, {"augment.repeats": 3}])
def test_the_order_is_that_of_seed_and_epoch(changes: dict[str, Any]) -> None:
    train = examples([61, 2, 17])

    def shown(seed: int, epoch: int) -> list[int]:
        torch.manual_seed(torch.seed() % 1000)  # the state around it does not matter
        return order(train, settings_with(seed=seed, **changes), epoch)

    assert shown(3, 2) == shown(3, 2)
    orders = [shown(3, 2), shown(3, 3), shown(4, 2), shown(0, 1), shown(1, 0)]
    assert len(set(map(tuple, orders))) == len(orders)


@pytest.mark.parametrize(("count", "repeats"), [(60, 3), (61, 3), (300, 3), (64, 2), (10, 12)])
def test_repeats_are_those_of_timm_on_one_device(
    count: int, repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm, as DeiT's own code, of the same random order; but for rounding to 256 images."""
    train = examples([count])
    sampler = RepeatAugSampler(train, num_replicas=1, rank=0, num_repeats=repeats, selected_round=0)
    permutation = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("torch.randperm", lambda n, generator: permutation)
    ours = order(train, settings_with(**{"augment.repeats": repeats}))
    assert ours == list(sampler)
    assert len(ours) == count


def test_repeats_stay_together_and_an_epoch_as_long_as_before() -> None:
    train, settings = examples([100], skip=4), settings_with(**{"augment.repeats": 3})
    parts = batches(train, settings, epoch=2)
    assert [len(part) for part in parts] == [
        len(part) for part in batches(train, settings_with(), 2)
    ]
    shown = torch.cat(parts).tolist()
    groups = [set(shown[start : start + 3]) for start in range(0, len(shown), 3)]
    assert all(len(group) == 1 for group in groups)
    assert len(set.union(*groups)) == len(groups)  # 25 different ones
    assert set(shown) <= set(train.rows.tolist())


def test_repeated_images_are_balanced_too() -> None:
    changes = {"data.balanced": True, "augment.repeats": 3}
    train = examples([80, 5, 15])
    for epoch in range(5):
        seen = per_class(train, order(train, settings_with(**changes), epoch))
        assert sum(seen) == 100
        assert max(seen) - min(seen) < 6  # a group more, and one that the end cuts off


def test_batches_are_even() -> None:
    for count in (1, 15, 16, 17, 33, 100):
        parts = batches(examples([count]), settings_with(), 0)
        sizes = [len(part) for part in parts]
        assert len(sizes) == -(-count // 16)
        assert max(sizes) - min(sizes) <= 1


def test_what_is_balanced_are_places_not_rows() -> None:
    labels: Tensor = torch.tensor([5, 9, 9, 9])
    places = balanced(labels, 10, torch.Generator().manual_seed(0))
    assert sorted(labels[places].tolist()) == [5] * 5 + [9] * 5
