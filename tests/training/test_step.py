"""One step of training: in parts, with less memory, in 16 bits, and when it fails."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import vitkit
from vitkit.models.backbone import Backbone
from vitkit.training.config import resolve
from vitkit.training.prepare import make_learner, prepare
from vitkit.training.schedule import Pace
from vitkit.training.step import Learner, Result, train_step
from vitkit.training.tune import set_training_mode

TOTAL = 100  # steps of the run of which a few are made
NOTHING_RANDOM = {"augment.mirror": False, "augment.shift": 0.0}
RESNET = {
    "model.name": "resnet18",
    "model.dim": 8,
    "model.depths": [1, 1, 1, 1],
    "data.image_size": 32,
}

Make = Callable[..., Learner]


@pytest.fixture
def make(colours: Path, tiny: dict[str, Any]) -> Make:
    """`make(ema=0)` is a learner as a run has it, a tiny ViT if nothing else is said."""

    def learner(**settings: Any) -> Learner:
        plain = {key: value for key, value in tiny.items() if not key.startswith("model.")}
        start = plain if "model.name" in settings else tiny
        made = make_learner(prepare(colours, resolve({**start, "warmup_epochs": 0, **settings})))
        set_training_mode(made.model)
        return made

    return learner


def batch(learner: Learner, count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    size = (count, 3, *learner.preprocess.image_size)
    images = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 3


def take(learner: Learner, steps: int = 3) -> list[Result]:
    images, labels = batch(learner)
    return [train_step(learner, images, labels, Pace(step, TOTAL)) for step in range(steps)]


def everything(learner: Learner) -> dict[str, Tensor]:
    """All numbers that a step may change, copied."""
    average = learner.average.model.state_dict() if learner.average is not None else {}
    whole = {**learner.model.state_dict(), **{f"average {k}": v for k, v in average.items()}}
    for number, state in enumerate(learner.optimizer.state_dict()["state"].values()):
        whole |= {f"{number} {key}": value for key, value in state.items() if value is not None}
    return copy.deepcopy(whole)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], atol: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(
            one[key], other[key], rtol=0, atol=atol, msg=lambda text, key=key: f"{key}: {text}"
        )


def weights(learner: Learner) -> dict[str, Tensor]:
    """The weights alone, but for what is nothing but rounding."""
    return without_key_biases({k: v.detach() for k, v in learner.model.named_parameters()})


def without_key_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys' biases get no gradient but rounding, of which Adam makes steps."""
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    for name, value in copies.items():
        if name.endswith("qkv.bias"):
            value[len(value) // 3 : 2 * len(value) // 3] = 0
    return copies


# In parts


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "muon"])
@pytest.mark.parametrize("parts", [2, 3, 8, 20])
def test_a_batch_in_parts_gives_the_same_step(
    make: Make, monkeypatch: pytest.MonkeyPatch, name: str, parts: int
) -> None:
    # Products in bfloat16 would turn the last bit of a gradient into as much.
    monkeypatch.setattr("vitkit.training.muon.gains_from_bf16", lambda device: False)
    given = {**NOTHING_RANDOM, "optimizer": name, "lr": 1e-2 if name == "sgd" else 1e-3}
    given |= {"clip_grad": 0.5, "model.layer_scale": 1.0}
    whole, divided = make(**given), make(**given, accumulate=parts)
    results, others = take(whole), take(divided)
    assert_equal(weights(divided), weights(whole), atol=1e-6)
    for one, other in zip(results, others, strict=True):
        torch.testing.assert_close(other.totals, one.totals, rtol=1e-5, atol=0)


def test_parts_are_no_larger_than_asked_for(make: Make) -> None:
    learner, sizes = make(accumulate=3), []
    learner.model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    take(learner, steps=1)
    assert sizes == [3, 3, 2]


def test_parts_draw_each_for_itself(make: Make) -> None:
    """Else the same flips and boxes would come again in every part."""
    learner, seen = make(**{"accumulate": 2, "augment.shift": 0.4, "mix.mixup": 0.8}), []
    learner.model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    images, labels = batch(learner, 4)
    train_step(learner, torch.cat([images, images]), torch.cat([labels, labels]), Pace(0, TOTAL))
    assert not torch.equal(*seen)


# With less memory, or compiled


@pytest.mark.parametrize(
    "model",
    [
        {"model.depth": 3, "model.drop_path": 0.5, "model.dropout": 0.2},
        {**RESNET, "model.drop_path": 0.3},
    ],
    ids=["vit", "resnet"],
)
def test_checkpointing_gives_the_same_step(make: Make, model: dict[str, Any]) -> None:
    """With all that is drawn at random drawn again alike; BatchNorm's statistics count once."""
    plain, sparing = make(**model), make(**model, checkpointing=True)
    take(plain)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        take(sparing, steps=1)
        with_checkpoints = sum(saved)
        saved.clear()
        take(make(**model), steps=1)
    assert with_checkpoints < 0.8 * sum(saved)
    sparing = make(**model, checkpointing=True)
    take(sparing)
    assert_equal(everything(sparing), everything(plain), atol=1e-6)


def test_a_step_that_is_made_again_gives_the_same(make: Make) -> None:
    given = {"augment.shift": 0.3, "augment.policy": "randaugment", "augment.erase": 0.5}
    given |= {"mix.mixup": 0.8, "mix.cutmix": 1.0, "model.dropout": 0.3}
    first, second = make(**given), make(**given)
    take(first)
    torch.manual_seed(321)  # the state around it does not matter
    take(second)
    assert_equal(everything(second), everything(first))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [{"model.name": "deit_tiny_distilled_patch16_224"}, RESNET],
    ids=["two heads", "resnet"],
)
def test_a_compiled_model_learns_the_same(
    finished: vitkit.Run, colours: Path, tiny: dict[str, Any], tmp_path: Path, model: dict[str, Any]
) -> None:
    sizes = {key: value for key, value in tiny.items() if key.startswith("model.")}
    rest = {key: value for key, value in tiny.items() if key not in sizes}
    given = rest | (model if model is RESNET else {**sizes, **model})
    given |= {"epochs": 1, "lr": 1e-3, "distill.teacher": str(finished.directory)}
    plain = vitkit.train(colours, out=tmp_path / "plain", **given)
    compiled = vitkit.train(colours, out=tmp_path / "compiled", **given, compile=True)
    for name in ("best", "last"):
        one, other = (
            load_file(run.directory / name / "model.safetensors") for run in (plain, compiled)
        )
        assert_equal(without_key_biases(other), without_key_biases(one), atol=1e-4)
    assert compiled.metrics[0]["train_loss"] == pytest.approx(
        plain.metrics[0]["train_loss"], abs=1e-4
    )


# Precision


def test_sixteen_bits_on_a_cpu(make: Make) -> None:
    """It learns as in float32, with weights that stay so."""
    learner, plain = make(precision="fp16", **NOTHING_RANDOM), make(**NOTHING_RANDOM)
    assert learner.scaler.is_enabled()
    results = take(learner, steps=20)
    assert results[-1].finite
    assert all(parameter.dtype == torch.float32 for parameter in learner.model.parameters())
    assert all(torch.isfinite(value).all() for value in everything(learner).values())
    assert results[-1].totals[0] < 0.8 * results[0].totals[0]
    expected = take(plain, steps=20)
    torch.testing.assert_close(results[0].totals, expected[0].totals, rtol=1e-2, atol=0)


def test_a_step_too_large_for_sixteen_bits_is_left_out_and_the_scale_comes_down(
    make: Make,
) -> None:
    learner = make(precision="fp16")
    learner.scaler.load_state_dict({**learner.scaler.state_dict(), "scale": 2.0**60})
    before = everything(learner)
    (result,) = take(learner, steps=1)
    assert not result.finite
    assert_equal(everything(learner), before)
    assert learner.scaler.get_scale() == 2.0**59


# What is switched off near the end


def inputs_at(learner: Learner, share: float) -> Tensor:
    """What the model gets at a share of the run."""
    seen: list[Tensor] = []
    handle = learner.model.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    train_step(learner, *batch(learner), Pace(round(share * TOTAL), TOTAL))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_ends_at_its_share(make: Make, kind: str) -> None:
    given = {**NOTHING_RANDOM, f"mix.{kind}": 1.0, "mix.mode": "elem", "mix.until": 0.6}
    learner = make(**given)
    plain = learner.preprocess.normalise(batch(learner)[0])
    for share, mixed in [(0.0, True), (0.3, True), (0.59, True), (0.6, False), (0.99, False)]:
        assert torch.equal(inputs_at(learner, share), plain) is not mixed


@pytest.mark.parametrize(
    "strong",
    [{"augment.policy": "trivialaugment"}, {"augment.jitter": 0.5}, {"augment.erase": 1.0}],
)
def test_strong_augmentation_ends_at_its_share(make: Make, strong: dict[str, Any]) -> None:
    learner = make(**{**NOTHING_RANDOM, **strong, "augment.until": 0.5})
    plain = learner.preprocess.normalise(batch(learner)[0])
    for share, changed in [(0.0, True), (0.49, True), (0.5, False), (0.99, False)]:
        assert torch.equal(inputs_at(learner, share), plain) is not changed


def test_crops_and_mirrors_go_on_to_the_end(make: Make) -> None:
    gentle = {"augment.mirror": True, "augment.shift": 0.3, "augment.until": 0.5}
    learner = make(**gentle)
    plain = learner.preprocess.normalise(batch(learner)[0])
    assert not torch.equal(inputs_at(learner, 0.99), plain)


def test_by_default_nothing_ends(make: Make) -> None:
    learner = make(**{**NOTHING_RANDOM, "mix.mixup": 1.0, "mix.mode": "elem"})
    plain = learner.preprocess.normalise(batch(learner)[0])
    assert not torch.equal(inputs_at(learner, 0.99), plain)


def test_labels_are_mixed_as_the_images_are(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of one colour for each class: the shares can be read off."""
    learner = make(**{**NOTHING_RANDOM, "mix.mixup": 0.8, "mix.cutmix": 1.0, "mix.mode": "elem"})
    pixels = torch.eye(3, dtype=torch.uint8) * 255
    labels = torch.arange(9) % 3
    images = pixels[labels][:, :, None, None].expand(9, 3, 8, 8).contiguous()
    seen: list[tuple[Tensor, Tensor]] = []

    def record(heads: tuple[Tensor, ...], targets: Tensor, *more: Any) -> Tensor:
        seen.append((inputs[-1], targets))
        return heads[0].sum()

    inputs: list[Tensor] = []
    learner.model.register_forward_pre_hook(lambda m, given: inputs.append(given[0]))
    monkeypatch.setattr("vitkit.training.step.loss_of", record)
    train_step(learner, images, labels, Pace(0, TOTAL))
    ((x, targets),) = seen
    shares = (x * 0.5 + 0.5).mean(dim=(2, 3))  # of red, green and blue
    torch.testing.assert_close(targets, shares, rtol=0, atol=1e-5)
    assert (targets.max(dim=1).values < 0.99).any()


# A step that is not finite


class Poison(nn.Module):
    """A layer that multiplies by NaN, forward or in the gradient only, when told to."""

    def __init__(self, model: Backbone, where: str) -> None:
        super().__init__()
        self.where = where
        self.on = False
        model.register_forward_hook(self)

    def __call__(self, module: nn.Module, given: Any, made: Tensor) -> Tensor:
        if not self.on:
            return made
        if self.where == "forward":
            return made * torch.nan
        made.register_hook(lambda gradient: gradient * torch.inf)
        return made


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "muon"])
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing(
    make: Make, name: str, where: str, accumulate: int
) -> None:
    """Neither weights nor their average, nor the statistics of batch norms, nor the optimiser."""
    learner = make(**RESNET, optimizer=name, accumulate=accumulate, lr=1e-3)
    poison = Poison(learner.model, where)
    take(learner)
    before = everything(learner)
    assert any("running_mean" in key for key in before)
    assert any(key.startswith("average") for key in before)
    poison.on = True
    images, labels = batch(learner)
    result = train_step(learner, images, labels, Pace(3, TOTAL))
    assert not result.finite
    assert_equal(everything(learner), before)
    poison.on = False
    assert train_step(learner, images, labels, Pace(4, TOTAL)).finite
    after = everything(learner)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(after[key], before[key]) for key in before)


def test_a_bad_part_spoils_the_whole_batch(make: Make) -> None:
    learner = make(accumulate=4)
    calls: list[int] = []

    def spoil(module: nn.Module, given: Any, made: Tensor) -> Tensor:
        calls.append(1)
        return made * torch.nan if len(calls) == 2 else made

    learner.model.register_forward_hook(spoil)
    before = everything(learner)
    assert not take(learner, steps=1)[0].finite
    assert_equal(everything(learner), before)


# Rates


def test_every_group_learns_at_its_own_rate(make: Make) -> None:
    learner = make(**{"model.depth": 2, "layer_decay": 0.5, "lr": 1e-3, "min_lr": 0.0})
    names = {id(parameter): name for name, parameter in learner.model.named_parameters()}
    take(learner, steps=1)
    rates = {
        names[id(parameter)]: group["lr"]
        for group in learner.optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates.keys() == dict(learner.model.named_parameters()).keys()
    by_hand = {"head": 1, "norm": 2, "blocks.1": 2, "blocks.0": 4}  # the last norm as in timm
    for name, rate in rates.items():
        part = next((divisor for start, divisor in by_hand.items() if name.startswith(start)), 8)
        assert rate == pytest.approx(1e-3 / part), name


def test_sgd_moves_a_layer_by_its_rate_times_its_gradient(make: Make) -> None:
    given = {**NOTHING_RANDOM, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    given |= {"model.depth": 2, "layer_decay": 0.5, "lr": 0.1, "clip_grad": 0}
    learner = make(**given)
    before = weights(learner)
    take(learner, steps=1)
    for name, divisor in {"head.weight": 1, "blocks.1.mlp.fc1.weight": 2, "pos_embed": 8}.items():
        parameter = learner.model.get_parameter(name)
        assert parameter.grad is not None
        expected = before[name] - 0.1 / divisor * parameter.grad
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-7)


def test_a_learner_has_what_the_settings_say(make: Make) -> None:
    assert make(ema=0).average is None
    assert not make().scaler.is_enabled()
    assert make().predictor is not make().model
    assert make(ema=0).predictor.training
