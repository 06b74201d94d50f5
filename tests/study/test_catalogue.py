"""The declared studies: that they set against each other what they say, under equal conditions."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitkit.errors import ConfigError
from vitkit.models import build, find_config
from vitkit.study.catalogue import STUDIES, find_study
from vitkit.study.conditions import Conditions, make_conditions, settings_for
from vitkit.study.design import Arm, Study
from vitkit.study.results import Result
from vitkit.training.config import Resolved
from vitkit.training.plan import plan

Made = Callable[..., Result]


@pytest.fixture(params=STUDIES, ids=lambda study: study.name)
def study(request: pytest.FixtureRequest) -> Study:
    """Each of them."""
    return request.param


def resolved(study: Study, arm: Arm, **given: Any) -> Resolved:
    conditions = make_conditions(study, **given)
    settings = settings_for(study, arm, conditions, seed=0, teacher=Path("/teacher"))
    return plan(conditions.data, settings)


def values(study: Study, arm: Arm, **given: Any) -> dict[str, Any]:
    return {row.key: row.value for row in resolved(study, arm, **given).rows()}


def test_they_are_those_that_were_asked_for() -> None:
    names = "vit-vs-cnn data-size augmentation pooling positions patch-size distillation stem"
    assert [study.name for study in STUDIES] == names.split()
    for study in STUDIES:
        assert find_study(study.name) is study
        assert study.question.endswith("?")
        assert re.match(r"arXiv:\d{4}\.\d{5}, ", study.source)


def test_an_unknown_one_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no study is called 'vit-cnn', did you mean 'vit-vs-cnn"):
        find_study("vit-cnn")


def test_arms_differ_in_nothing_but_what_is_compared(study: Study) -> None:
    """And in fields that only one family has, the epochs of a share, and who has a teacher."""
    arms = [values(study, arm) for arm in study.arms]
    may_differ = study.compared | {"distill.teacher"}
    may_differ |= {"epochs"} if "data.fraction" in study.compared else set()
    for arm in arms[1:]:
        differ = {key for key in arm if arm[key] != arms[0].get(key)}
        if "model.name" in study.compared:
            differ = {key for key in differ if not key.startswith("model.")}
        assert differ <= may_differ
    assert len({str(sorted(arm.items())) for arm in arms}) == len(arms)  # and they do differ


def test_every_arm_can_be_built_for_the_default_data(study: Study) -> None:
    for arm in study.trained:
        settings = resolved(study, arm).settings
        assert settings.data.image_size in ((32, 32), (64, 64))
        assert not settings.augment.mirror  # digits have a handedness
        config = find_config(settings.architecture, **settings.config_overrides, num_classes=10)
        build(config)
        assert arm.taught == (settings.distill.teacher == "/teacher")


def test_minutes_take_the_place_of_epochs(study: Study) -> None:
    lengths = {resolved(study, arm, minutes=7).settings.minutes for arm in study.trained}
    assert lengths == {7.0}
    lengths = {resolved(study, arm).settings.minutes for arm in study.trained}
    assert lengths == {None}


def test_the_textbook_pair_is_the_one_of_the_textbook() -> None:
    study = find_study("vit-vs-cnn")
    vit, cnn = (resolved(study, arm).settings for arm in study.arms)
    for settings in (vit, cnn):
        assert (settings.optimizer, settings.lr, settings.weight_decay) == ("adamw", 1e-3, 0)
        assert (settings.schedule, settings.warmup_epochs) == ("constant", 0)
        assert (settings.batch_size, settings.epochs) == (128, 20)
        assert (settings.label_smoothing, settings.clip_grad, settings.ema) == (0, 0, 0)
        augment = settings.augment
        assert (augment.mirror, augment.shift, augment.scale) == (False, 0, None)
        assert (augment.policy, augment.jitter, augment.erase) == ("none", 0, 0)
        assert (settings.mix.mixup, settings.mix.cutmix) == (0, 0)
    model = build(find_config(vit.architecture, **vit.config_overrides, num_classes=10))
    d, depth, patches = 128, 4, 64  # the closed form of a plain ViT with patches of 4
    expected = 3 * 16 * d + d + d + (patches + 1) * d + depth * (12 * d**2 + 13 * d) + 2 * d
    assert sum(p.numel() for p in model.parameters()) == expected + 10 * d + 10
    assert model.blocks[0].attn.num_heads == 4
    assert cnn.model["dims"] == (32, 64, 128)


def test_arms_on_a_share_have_more_epochs() -> None:
    study = find_study("data-size")
    for arm in study.arms:
        settings = resolved(study, arm, epochs=6).settings
        assert settings.epochs == {1: 60, 10: 19, 100: 6}[round(arm.at or 0)]
        assert settings.data.fraction == pytest.approx((arm.at or 0) / 100)


def test_the_augmentation_is_that_of_the_recipe() -> None:
    study = find_study("augmentation")
    off, on = study.arms
    recipe = plan("digits", {"model.name": "vit_tiny_patch16_224", "recipe": "deit"}).settings
    settings = resolved(study, on, data="pets.zip").settings
    assert settings.augment == recipe.augment
    assert settings.mix == recipe.mix
    plain = resolved(study, off, data="pets.zip").settings
    assert not plain.augment.mirror and plain.augment.shift == 0
    assert settings.lr == plain.lr and settings.epochs == plain.epochs


def test_what_differs_is_what_the_question_is_about() -> None:
    pools = [values(find_study("pooling"), arm) for arm in find_study("pooling").arms]
    assert [arm["model.pool"] for arm in pools] == ["cls", "mean"]
    study = find_study("positions")
    kinds = [values(study, arm)["model.position"] for arm in study.arms]
    assert kinds == ["learned", "sincos_1d", "sincos_2d", "none"]
    study = find_study("patch-size")
    assert [values(study, arm)["model.patch_size"] for arm in study.arms] == [4, 8, 16]
    study = find_study("stem")
    assert [values(study, arm)["model.stem"] for arm in study.arms] == [[], [32, 64]]
    study = find_study("distillation")
    none, soft, hard = (resolved(study, arm).settings for arm in study.arms)
    assert none.distill.teacher is None
    assert (soft.distill.kind, soft.distill.alpha, soft.distill.temperature) == ("soft", 0.1, 3.0)
    assert (hard.distill.kind, hard.architecture) == ("hard", "deit_tiny_distilled_patch16_224")
    assert study.teacher is not None
    assert resolved(study, study.teacher).settings.architecture == "resnet18"


AGAINST = {  # the arms that make the claim true when they are better, and those that make it false
    "vit-vs-cnn": ({"cnn"}, {"vit"}),
    "data-size": ({"cnn-1"}, {"vit-1"}),
    "augmentation": ({"on"}, {"off"}),
    "positions": ({"learned", "sincos-1d", "sincos-2d"}, {"none"}),
    "patch-size": ({"4"}, {"16"}),
    "distillation": ({"hard-token"}, {"none"}),
    "stem": ({"convolutional"}, {"linear"}),
}


@pytest.mark.parametrize("name", AGAINST)
@pytest.mark.parametrize(("side", "verdict"), [(0, "holds"), (1, "fails"), (None, "open")])
def test_the_verdict_follows_the_results(
    result: Made, name: str, side: int | None, verdict: str
) -> None:
    study = find_study(name)
    raised = set() if side is None else AGAINST[name][side]
    results = {arm.name: result(0.8 if arm.name in raised else 0.5) for arm in study.trained}
    outcome = study.outcome(results)
    assert outcome.verdict == verdict
    sign = {"holds": 0.3, "fails": -0.3, "open": 0.0}[verdict]
    assert outcome.gap.share == pytest.approx(sign)
    end = {"holds": "The claim holds here.", "fails": "Here the opposite is true.", "open": "de."}
    assert outcome.sentence.endswith(end[verdict])
    told = set(re.findall(r"(?<=[ (])\d+\.\d %", outcome.sentence))
    scores = {"holds": {"50.0 %", "80.0 %"}, "fails": {"50.0 %", "80.0 %"}, "open": {"50.0 %"}}
    assert told >= scores[verdict] if name != "data-size" else "lead" in outcome.sentence


def test_one_kind_of_positions_that_fails_is_enough(result: Made) -> None:
    scores = {"learned": 0.8, "sincos-1d": 0.7, "sincos-2d": 0.4, "none": 0.5}
    outcome = find_study("positions").outcome({name: result(s) for name, s in scores.items()})
    assert outcome.verdict == "fails"
    assert "weakest positions (fixed 2-D)" in outcome.sentence
    assert "From fixed 2-D to learned it is 40.0 points" in outcome.sentence


def test_pooling_holds_if_both_are_equal(result: Made) -> None:
    study = find_study("pooling")
    for mean, verdict in ((0.5, "holds"), (0.6, "fails"), (0.4, "fails"), (0.515, "open")):
        images = 1000 if verdict == "open" else 20_000
        results = {"cls": result(0.5, images=images), "mean": result(mean, images=images)}
        assert study.outcome(results).verdict == verdict


def test_what_else_is_said(result: Made) -> None:
    scores = {"4": (0.7, 48), "8": (0.6, 13), "16": (0.5, 4)}
    results = {name: result(score, macs=macs) for name, (score, macs) in scores.items()}
    sentence = find_study("patch-size").outcome(results).sentence
    assert "cost 12.0 times the multiply-accumulates; patches of 8 reach 60.0 %." in sentence
    scores = {"teacher": 0.9, "none": 0.5, "soft": 0.45, "hard-token": 0.6}
    sentence = (
        find_study("distillation").outcome({name: result(s) for name, s in scores.items()}).sentence
    )
    assert "Soft labels change it by \u22125.0 points" in sentence
    assert "the teacher itself reaches 90.0 %" in sentence
    results = {arm.name: result(0.5) for arm in find_study("data-size").arms}
    results |= {"cnn-1": result(0.7), "vit-100": result(0.6)}
    sentence = find_study("data-size").outcome(results).sentence
    listed = "is +20.0 on 1 %, +0.0 on 10 %, \u221210.0 on 100 % of the training images"
    assert listed in sentence
    assert "with all it is 30.0 points smaller than with 1 %" in sentence


@pytest.mark.slow
def test_every_study_runs(study: Study, tmp_path: Path) -> None:
    from vitkit.study.run import run_study

    record = run_study(study, Conditions(epochs=1), tmp_path / study.name)
    assert record.finished
