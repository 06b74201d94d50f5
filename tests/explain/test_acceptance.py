"""Maps of models that have learned planted objects lie on them; maps of random numbers do not."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vitkit
from vitkit.data.mix import Mix
from vitkit.explain.contest import Contest, Trial, contest
from vitkit.explain.planted import Example, planted
from vitkit.models.backbone import Backbone

GRADIENT = ("gradient_rollout", "relevance", "legrad", "gradcam", "integrated_gradients")
CUSTOMARY = 15 / 224  # of the shorter side: the pointing game's usual tolerance


def assert_points(found: Contest, methods: tuple[str, ...]) -> None:
    """At least 95 % on the object, and better than random maps by every measure."""
    for method in methods:
        score = found[method].pointing
        assert score is not None
        assert score.mean >= 0.95, (method, score)
        assert found[method].verdict == "better than random", found[method].words


def assert_at_chance(found: Contest) -> None:
    """Random maps hit as often as their object is large, within three standard deviations."""
    score, chance = found["random"].pointing, found.chance
    assert score is not None
    assert chance is not None
    deviation = (chance * (1 - chance) / found.images) ** 0.5
    assert score.mean == pytest.approx(chance, abs=3 * deviation)


def patterned(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A square with one of four patterns on almost even ground: images, labels and masks."""
    random = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    across, down, diagonal = (at // 2 % 2 * 2.0 - 1 for at in (row, column, row + column))
    waves = torch.stack([across, down, across * down, diagonal])
    labels = torch.arange(count) % len(waves)
    masks = torch.zeros(count, 32, 32, dtype=torch.bool)
    for mask, (top, left) in zip(
        masks, torch.randint(21, (count, 2), generator=random), strict=True
    ):
        mask[top : top + 12, left : left + 12] = True
    noise = torch.randn(count, 3, 32, 32, generator=random)
    x = torch.where(masks[:, None], waves[labels][:, None] + 0.2 * noise, 0.1 * noise)
    return x, labels, masks


@pytest.fixture(scope="module")
def learned() -> Backbone:
    """A small ViT that tells the patterns apart.

    Each image is mixed with another, and the head reads the mean of all cells besides the class
    token, so that what lies around the object has to speak for no class.
    """
    torch.manual_seed(0)
    model = vitkit.create_model(
        "vit_tiny_patch16_224",
        image_size=32,
        num_classes=4,
        patch_size=4,
        dim=32,
        depth=2,
        num_heads=8,
        qk_norm=True,
        pool="cls_mean",
    )
    steps, mix = 192, Mix(cutmix=1.0, mode="pair", probability=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    x, labels, _ = patterned(steps * 32, 0)
    for images, classes in zip(x.split(32), labels.split(32), strict=True):
        mixed, targets = mix(images, F.one_hot(classes, 4).float())
        loss = F.cross_entropy(model(mixed), targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pace.step()
    return model.eval()


def test_patterns(learned: Backbone) -> None:
    x, labels, masks = patterned(100, 1000)
    with torch.no_grad():
        assert (learned(x).argmax(dim=1) == labels).float().mean() > 0.99
    examples = map(Example, x, labels.tolist(), masks.numpy())
    found = contest(
        learned,
        examples,
        methods=GRADIENT,
        options={"integrated_gradients": {"steps": 8}},
        trial=Trial(steps=6, tolerance=round(CUSTOMARY * 32)),
    )
    assert_points(found, ("gradient_rollout", "relevance", "legrad", "integrated_gradients"))
    assert found["gradcam"].verdict == "better than random"  # hits: 89 to 100 %, by the seed
    assert_at_chance(found)


SHAPES: dict[str, Any] = {
    "recipe": "small",
    "model": "vitc_compact_32",
    "model.stem": [32, 64],
    "model.patch_size": 4,
    "model.dim": 96,
    "model.depth": 3,
    "model.num_heads": 3,
    "model.pool": "cls",
    "model.class_token": True,
    "data.image_size": 48,
    "data.val_fraction": 0.04,
    "data.test_fraction": 0.04,
    "augment.shift": 0.0,
    "augment.scale": None,
    "augment.policy": "none",
    "epochs": 7,
    "batch_size": 48,
}


@pytest.mark.slow
def test_shapes(tmp_path: Path) -> None:
    """From scratch in four minutes of one core: 100 % right, and for the right reason.

    The class of a shape shows in its outline, and that is where the maps lie, on both sides of it:
    hence the customary tolerance. Grad-CAM and LeGrad are left out: by the last block attention has
    told cells of the ground the class too, and these two methods point at those as well.
    """
    run = vitkit.train("shapes:count=10000,size=48,seed=1", out=tmp_path / "run", **SHAPES)
    assert_right_for_the_right_reason(run.load())


def assert_right_for_the_right_reason(classifier: vitkit.Classifier) -> None:
    examples = list(planted(classifier.preprocess, count=200, size=48, seed=99))
    with torch.no_grad():
        named = classifier.model(torch.stack([example.x for example in examples])).argmax(dim=1)
    assert sum(named == torch.tensor([e.label for e in examples])) >= 0.97 * len(examples)
    found = contest(
        classifier.model,
        examples,
        methods=("rollout", "gradient_rollout", "relevance", "integrated_gradients"),
        options={"integrated_gradients": {"steps": 20}},
        trial=Trial(tolerance=round(CUSTOMARY * 48)),
    )
    assert_points(found, ("rollout", "gradient_rollout", "relevance", "integrated_gradients"))
    assert_at_chance(found)
