"""Mixup and CutMix against timm's with the same draws, and the distribution of ours."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import timm.data.mixup as timm_mixup
import torch
from torch import Tensor

from vitkit.data.augment.box import inside
from vitkit.data.mix import MODES, Mix, box_around, mix, random_box, random_share
from vitkit.errors import ConfigError

CLASSES = 5
CPU = torch.device("cpu")


def batch(count: int, height: int = 8, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Random images, their labels and these as one-hot targets."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, height, width, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return images, labels, torch.eye(CLASSES)[labels]


def telling(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Images of one channel for each class, which is 1 everywhere in that of the label."""
    targets = torch.eye(CLASSES)[torch.arange(count) % CLASSES]
    return targets[:, :, None, None].expand(-1, -1, height, width).clone(), targets


def by_timm(mode: str, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """timm's, with whatever its draws have been replaced by."""
    theirs = timm_mixup.Mixup(
        mixup_alpha=1.0, cutmix_alpha=1.0, mode=mode, label_smoothing=0.0, num_classes=CLASSES
    )
    return theirs(images.clone(), labels)


def corners(boxes: Tensor) -> Iterator[tuple[int, int, int, int]]:
    """timm's form of boxes: first and last row, first and last column."""
    for top, left, height, width in boxes.tolist():
        yield top, top + height, left, left + width


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_mixup_of_a_batch(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, targets = batch(6)
    draw = (share, False)
    monkeypatch.setattr(timm_mixup.Mixup, "_params_per_batch", lambda self: draw)
    expected, expected_targets = by_timm("batch", images, labels)
    mixed, mixed_targets = mix(images, targets, torch.full((1, 1, 8, 6), share))
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(mixed_targets, expected_targets)


@pytest.mark.parametrize("box", [(0, 0, 8, 6), (2, 1, 3, 4), (7, 5, 1, 1), (3, 3, 0, 2)])
def test_cutmix_of_a_batch(box: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, targets = batch(6)
    boxes = torch.tensor([box])
    monkeypatch.setattr(timm_mixup.Mixup, "_params_per_batch", lambda self: (0.123, True))
    monkeypatch.setattr(timm_mixup, "rand_bbox", lambda *a, **k: next(corners(boxes)))
    expected, expected_targets = by_timm("batch", images, labels)
    mixed, mixed_targets = mix(images, targets, (~inside(boxes, (8, 6))).float())
    assert torch.equal(mixed, expected)
    torch.testing.assert_close(mixed_targets, expected_targets)


def test_each_image_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some mixed, some cut, some left alone, as timm's mode `elem`."""
    images, labels, targets = batch(8)
    share = torch.tensor([0.2, 1.0, 0.5, 0.7, 0.9, 0.1, 0.4, 1.0])
    cut = torch.tensor([False, False, True, True, False, True, False, False])
    boxes = random_box(share, (8, 6))
    drawn = corners(boxes[cut])
    params = share.numpy().copy(), cut.numpy()
    monkeypatch.setattr(timm_mixup.Mixup, "_params_per_elem", lambda self, count: params)
    monkeypatch.setattr(timm_mixup, "rand_bbox", lambda *a, **k: next(drawn))
    expected, expected_targets = by_timm("elem", images, labels)
    kept = share.view(-1, 1, 1, 1).repeat(1, 1, 8, 6)
    kept[cut] = (~inside(boxes, (8, 6))).float()[cut]
    mixed, mixed_targets = mix(images, targets, kept)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(mixed_targets, expected_targets)


@pytest.mark.parametrize("cutmix", [False, True])
def test_partners_share_their_draw(cutmix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As timm's mode `pair`, of what ours has drawn."""
    images, labels, targets = batch(8)
    torch.manual_seed(0)
    kept = Mix(**{"cutmix" if cutmix else "mixup": 1.0}, mode="pair").draw(images)[:4]
    share, boxes = kept.mean((1, 2, 3)).numpy(), iter(kept[:, 0])

    def box_of_ours(*arguments: Any, **more: Any) -> tuple[int, int, int, int]:
        rows, columns = (next(boxes) == 0).nonzero().unbind(1)
        return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1

    params = share.copy(), np.full(4, cutmix)
    monkeypatch.setattr(timm_mixup.Mixup, "_params_per_elem", lambda self, count: params)
    monkeypatch.setattr(timm_mixup, "rand_bbox", box_of_ours)
    expected, expected_targets = by_timm("pair", images, labels)
    mixed, mixed_targets = mix(images, targets, torch.cat([kept, kept.flip(0)]))
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(mixed_targets, expected_targets)


def test_boxes_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Around the same pixel: `randint` gives timm the middle that ours is told."""
    torch.manual_seed(0)
    share = torch.rand(500)
    middle = torch.stack([torch.randint(9, (500,)), torch.randint(14, (500,))], dim=1)
    boxes = box_around(middle, share, (9, 14))
    for pixel, kept, box in zip(middle.tolist(), share.tolist(), corners(boxes), strict=True):
        queue = iter(pixel)
        monkeypatch.setattr(np.random, "randint", lambda *a, queue=queue, **k: next(queue))
        assert tuple(map(int, timm_mixup.rand_bbox((1, 3, 9, 14), kept))) == box


def test_every_middle_is_as_likely() -> None:
    torch.manual_seed(0)
    boxes = random_box(torch.full((12_000,), 0.92), (4, 6))
    assert (boxes[:, 2:] == 1).all()
    seen = np.bincount(boxes[:, 0] * 6 + boxes[:, 1], minlength=24)
    chi_square = ((seen - 500) ** 2 / 500).sum()
    assert chi_square < 23 + 5 * 46**0.5


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 3.0])
def test_shares_are_of_the_beta_distribution(alpha: float) -> None:
    torch.manual_seed(0)
    drawn = np.sort(random_share(alpha, 8000, CPU).numpy())
    expected = np.sort(np.random.default_rng(0).beta(alpha, alpha, 200_000))
    gap = np.abs(np.searchsorted(expected, drawn) / 200_000 - np.arange(8000) / 8000).max()
    assert gap * 8000**0.5 < 2.3  # Kolmogorov's bound at 1e-4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 2, 7, 10])
@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_say_what_is_in_the_image(
    mode: str, count: int, alphas: tuple[float, float]
) -> None:
    images, targets = telling(count, 9, 7)
    before = images.clone(), targets.clone()
    policy = Mix(mixup=alphas[0], cutmix=alphas[1], mode=mode)
    for seed in range(30):
        torch.manual_seed(seed)
        mixed, mixed_targets = policy(images, targets)
        assert mixed.shape == images.shape and mixed_targets.shape == targets.shape
        torch.testing.assert_close(mixed.mean((2, 3)), mixed_targets)
        torch.testing.assert_close(mixed_targets.sum(1), torch.ones(count))
        if count % 2:  # its own partner
            torch.testing.assert_close(mixed[count // 2], images[count // 2])
    assert torch.equal(images, before[0]) and torch.equal(targets, before[1])


def kinds(kept: Tensor) -> tuple[Tensor, Tensor]:
    """Which draws mix at all, and which of them cut, (B,) each."""
    flat = kept.flatten(1)
    cut = ((flat == 0) | (flat == 1)).all(1) & (flat < 1).any(1)
    return (flat < 1).any(1), cut


@pytest.mark.parametrize("mode", ["batch", "elem"])
@pytest.mark.parametrize(("probability", "switch"), [(1.0, 0.5), (0.3, 0.2), (0.8, 1.0)])
def test_how_often(mode: str, probability: float, switch: float) -> None:
    torch.manual_seed(0)
    policy = Mix(mixup=0.8, cutmix=1.0, probability=probability, switch=switch, mode=mode)
    images = torch.zeros(50, 3, 40, 40)
    kept = torch.cat([policy.draw(images) for _ in range(800 if mode == "batch" else 40)])
    assert len(kept) == (800 if mode == "batch" else 2000)
    mixed, cut = kinds(kept)
    share, of_them = mixed.double().mean().item(), cut[mixed].double().mean().item()
    assert abs(share - probability) < 5 * (0.25 / len(kept)) ** 0.5  # a box may be empty: 1/1600
    assert abs(of_them - switch) < 5 * (0.25 / mixed.sum().item()) ** 0.5


@pytest.mark.parametrize("alphas", [(0.7, 0.0), (0.0, 0.7)])
def test_one_kind_alone(alphas: tuple[float, float]) -> None:
    """The probability of CutMix says nothing where only one is on."""
    torch.manual_seed(0)
    for switch in (0.0, 1.0):
        policy = Mix(mixup=alphas[0], cutmix=alphas[1], switch=switch, mode="elem")
        mixed, cut = kinds(policy.draw(torch.zeros(200, 3, 40, 40)))
        assert mixed.double().mean() > 0.95
        assert (cut == mixed).all() if alphas[1] else not cut.any()


def test_who_is_drawn_for_together() -> None:
    """A batch for once, two partners for once, or each image for itself."""
    torch.manual_seed(0)
    images, targets = torch.zeros(40, 3, 6, 6), torch.eye(40)
    drawn = {mode: Mix(mixup=1.0, mode=mode)(images, targets)[1].diag() for mode in MODES}
    assert {mode: len(shares.unique()) for mode, shares in drawn.items()} == {
        "batch": 1,
        "pair": 20,
        "elem": 40,
    }
    assert torch.equal(drawn["pair"], drawn["pair"].flip(0))


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.8, "probability": 0.0}])
def test_off(settings: dict[str, Any]) -> None:
    images, _, targets = batch(4)
    mixed, mixed_targets = Mix(**settings)(images, targets)
    assert torch.equal(mixed, images) and torch.equal(mixed_targets, targets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_are_kept(dtype: torch.dtype) -> None:
    images, _, targets = batch(4)
    for mode in MODES:
        mixed, mixed_targets = Mix(mixup=1.0, cutmix=1.0, mode=mode)(images.to(dtype), targets)
        assert mixed.dtype == dtype and mixed_targets.dtype == torch.float32


def test_the_seed_decides() -> None:
    images, _, targets = batch(8)
    policy: Callable[..., tuple[Tensor, Tensor]] = Mix(mixup=1.0, cutmix=1.0, mode="pair")
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(policy(images, targets)[0])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mixup": -1}, "mixup=-1 is not a number from 0; 0 turns it off"),
        ({"cutmix": math.inf}, "cutmix=inf is not a number from 0"),
        ({"mixup": math.nan}, "mixup=nan is not a number from 0"),
        ({"probability": 1.1}, r"probability=1.1 is not a probability in \[0, 1\]"),
        ({"switch": -0.1}, "switch=-0.1 is not a probability"),
        ({"mode": "half"}, "mode='half' is unknown; choose batch, pair, elem"),
    ],
)
def test_values_outside_their_range(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Mix(**settings)
