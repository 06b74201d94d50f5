"""Every method beside random maps: the figures, the pairs, and what they end as."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vitkit
from vitkit.data.transforms import Preprocess
from vitkit.errors import ConfigError
from vitkit.explain.contest import HEAD, Trial, contest
from vitkit.explain.faithfulness import area, deletion, insertion, pointing
from vitkit.explain.methods import METHODS, Method, explain_batch, methods_for
from vitkit.explain.paired import paired_score
from vitkit.explain.planted import Example, planted
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone
from vitkit.progress import Progress

TRIAL = Trial(steps=6, cell=8, blur=0.2, tolerance=2)
OPTIONS = {"occlusion": {"size": 16, "stride": 8}, "integrated_gradients": {"steps": 2}}


@pytest.fixture(scope="module")
def model() -> Backbone:
    torch.manual_seed(0)
    tiny = {"patch_size": 8, "dim": 32, "depth": 2, "num_heads": 2}
    made = vitkit.create_model("vit_tiny_patch16_224", image_size=(32, 32), num_classes=8, **tiny)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made.eval()


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(planted(Preprocess(image_size=(32, 32)), count=10, size=32, seed=0))


def test_figures_are_means_and_pairs_over_all_images(
    model: Backbone, examples: list[Example]
) -> None:
    said: list[Progress] = []
    found = contest(model, examples, options=OPTIONS, trial=TRIAL, batch_size=4, listen=said.append)
    assert [entry.method for entry in found.entries] == list(methods_for(model))
    assert found.images == 10
    assert [(p.done, p.total) for p in said] == [(4, 10), (8, 10), (10, 10)]
    x, target, masks = together(examples)

    def measured(name: str) -> list[np.ndarray]:
        maps = explain_batch(model, x, name, target, **OPTIONS.get(name, {}))
        fallen = area(deletion(model, x, target, maps, steps=6, cell=8))
        risen = area(insertion(model, x, target, maps, steps=6, cell=8, blur=0.2))
        return [v.double().numpy() for v in (fallen, risen, pointing(maps, masks, tolerance=2))]

    chance = measured("random")
    for name in ("relevance", "occlusion", "random"):
        lower = (True, False, False)
        for score, values, base, less in zip(
            found[name].scores, measured(name), chance, lower, strict=True
        ):
            expected = paired_score(values, base, lower_is_better=less)
            assert score.mean == pytest.approx(expected.mean, abs=1e-5)
            assert score.difference == pytest.approx(expected.difference, abs=1e-5)
            assert score.interval == pytest.approx(expected.interval, abs=1e-5)
    assert found.chance == pytest.approx(covered(examples, 2))


def together(examples: list[Example]) -> tuple[Tensor, Target, Tensor]:
    masks = [torch.from_numpy(example.mask) for example in examples]
    labels = torch.tensor([example.label for example in examples])
    return torch.stack([example.x for example in examples]), Target(labels), torch.stack(masks)


def covered(examples: list[Example], pixels: int) -> float:
    """The share of pixels that are no farther than that from the mask."""
    at = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="ij"), axis=-1)
    shares = []
    for example in examples:
        inside = np.argwhere(example.mask)
        away = ((at[:, :, None] - inside) ** 2).sum(-1).min(-1)
        shares.append((away <= pixels**2).mean())
    return float(np.mean(shares))


def test_a_method_that_knows_the_object_wins_and_random_maps_do_not(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a model that sees nothing but the object."""
    x, _, masks = together(examples)

    def where(images: Tensor) -> Tensor:
        return torch.stack([masks[(x - image).flatten(1).norm(dim=1).argmin()] for image in images])

    class Seer(nn.Module):
        feature_info = ({"reduction": 4},)

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, images: Tensor) -> Tensor:
            """How much of some image's object is as it was, whatever the rest looks like."""
            same = ((images[:, None] - x).abs().amax(dim=2) < 1e-6).float()  # (B, n, H, W)
            intact = (same * masks).sum(dim=(2, 3)) / masks.sum(dim=(1, 2))
            score = intact.amax(dim=1, keepdim=True) * self.weight
            return torch.cat([score, -score] * 4, dim=1) * 4

    def oracle(model: Backbone, images: Tensor, target: Target) -> Tensor:
        return where(images).float()

    def chance(model: Backbone, images: Tensor, target: Target) -> Tensor:
        drawn = torch.Generator().manual_seed(0)
        return torch.rand(len(images), 8, 8, generator=drawn)

    monkeypatch.setitem(METHODS, "oracle", Method(oracle, "Knows.", "none"))
    monkeypatch.setitem(METHODS, "chance", Method(chance, "Knows not.", "none"))
    of_one_class = [Example(example.x, 0, example.mask) for example in examples]
    found = contest(Seer().eval(), of_one_class, methods=["oracle", "chance"])
    assert [entry.verdict for entry in found.entries] == [
        "better than random",
        "not shown",
        "chance",
    ]
    assert found["oracle"].pointing is not None
    assert found["oracle"].pointing.mean == 1
    assert found["oracle"].deletion.difference < 0 < found["oracle"].insertion.difference


def test_images_without_masks(model: Backbone, examples: list[Example]) -> None:
    """No pointing game; and none either where some images have masks."""
    for some in (examples[:2], []):
        bare = [*some, *(Example(example.x, example.label) for example in examples[:3])]
        found = contest(model, iter(bare), methods=["attention"], trial=TRIAL)
        assert found.images == len(bare)
        assert found.chance is None
        assert [entry.pointing for entry in found.entries] == [None, None]
        assert found.entries[0].words[3] == "no masks"
        assert np.isfinite(found["attention"].deletion.mean)


def test_in_words_and_json(model: Backbone, examples: list[Example]) -> None:
    found = contest(model, examples[:3], methods=["random", "attention"], trial=TRIAL)
    assert [entry.method for entry in found.entries] == ["attention", "random"]  # random once, last
    for entry in found.entries:
        assert len(entry.words) == len(HEAD)
    said = json.loads(json.dumps(found.to_json()))
    assert said["images"] == 3
    assert said["trial"] == {"steps": 6, "cell": 8, "blur": 0.2, "tolerance": 2}
    assert list(said["methods"]) == ["attention", "random"]
    assert said["methods"]["random"]["verdict"] == "chance"
    fields = said["methods"]["attention"]["deletion"]
    assert fields["mean"] == found["attention"].deletion.mean
    assert fields["interval"] == list(found["attention"].deletion.interval)


@pytest.mark.parametrize(("images", "verdict"), [(9, "too few images"), (10, "not shown")])
def test_of_few_images_there_is_no_verdict(
    model: Backbone, examples: list[Example], images: int, verdict: str
) -> None:
    found = contest(model, examples[:images], methods=["attention"], trial=TRIAL)
    assert [entry.verdict for entry in found.entries] == [verdict, "chance"]
    assert found["attention"].words[-1] == verdict
    assert "+" in found["attention"].words[1] or "-" in found["attention"].words[1]
    assert found.to_json()["methods"]["attention"]["verdict"] == verdict


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"methods": ["relevanse"]}, "no method is called 'relevanse', did you mean 'relevance'"),
        ({"options": {"rollout": {"steps": 1}}}, "rollout has no option 'steps'"),
        ({"options": {"relevanse": {}}}, "no method is called 'relevanse'"),
        ({"trial": Trial(steps=0)}, "steps=0 is less than 1"),
        ({"trial": Trial(cell=0)}, "cell=0 is less than 1"),
        ({"trial": Trial(tolerance=-1)}, "tolerance=-1 is below 0"),
    ],
)
def test_refuses(
    model: Backbone, examples: list[Example], arguments: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        contest(model, examples[:1], **arguments)


def test_refuses_no_images(model: Backbone) -> None:
    with pytest.raises(ConfigError, match="there is no image to test maps on"):
        contest(model, [])
