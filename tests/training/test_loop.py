"""The training loop against the same arithmetic written plainly."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.data.transforms import Preprocess
from vitkit.errors import ConfigError
from vitkit.models import create_model
from vitkit.models.backbone import Backbone
from vitkit.progress import Progress, silent
from vitkit.training import loop
from vitkit.training.config import resolve
from vitkit.training.distributed import Agreed, Group
from vitkit.training.ema import WeightAverage
from vitkit.training.loop import Diverged, fit, validate
from vitkit.training.optim import make_optimizer
from vitkit.training.position import Position
from vitkit.training.sampling import Examples, batches
from vitkit.training.saving import Every, Saver
from vitkit.training.schedule import Pace, learning_rate
from vitkit.training.settings import TrainSettings
from vitkit.training.step import Heads, Learner, Result, train_step

PLAIN = {
    "precision": "fp32",
    "augment.mirror": False,
    "augment.shift": 0,
    "batch_size": 8,
    "epochs": 3,
    "lr": 0.01,
    "ema": 0.9,
}


def settings_with(**changes: Any) -> TrainSettings:
    return resolve({**PLAIN, **changes}).settings


def make_learner(settings: TrainSettings, **model: Any) -> Learner:
    torch.manual_seed(1)
    network = create_model(
        "vit_tiny_patch16_224",
        num_classes=3,
        **{"image_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "num_heads": 2, **model},
    )
    return Learner(
        model=network,
        network=Heads(network, taught=False),
        optimizer=make_optimizer(
            network,
            name="adamw",
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
        ),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        average=WeightAverage(network, settings.ema) if settings.ema else None,
        teacher=None,
        preprocess=Preprocess(image_size=(8, 8)),
        device=torch.device("cpu"),
        settings=settings,
    )


def take_step(learner: Learner, train: Examples, rows: Tensor, step: int, *, total: int) -> Result:
    return train_step(learner, train.images[rows], train.labels[rows], Pace(step, total))


def coloured(count: int, skip: int = 0) -> Examples:
    """Three classes that the brightest channel tells apart; every `skip`-th row is not in it."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 100, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    images[torch.arange(count), labels] += 150
    rows = [row for row in range(count) if not skip or row % skip]
    return Examples(images, labels, torch.tensor(rows))


NOTHING = Examples(torch.empty(0, 3, 8, 8), torch.empty(0), torch.empty(0, dtype=torch.int64))


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_steps_equal_those_written_with_torch_alone(clip: float, smoothing: float) -> None:
    settings = settings_with(clip_grad=clip, label_smoothing=smoothing, weight_decay=0.2)
    learner, train = make_learner(settings), coloured(24)
    model = copy.deepcopy(learner.model)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    spared = model.no_weight_decay()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": 0.2 if p.ndim > 1 and name not in spared else 0.0}
            for name, p in model.named_parameters()
        ],
        betas=(0.9, 0.999),
        foreach=False,
        fused=False,
    )
    for step, rows in enumerate(batches(train, settings, epoch=0)):
        totals = take_step(learner, train, rows, step, total=9).totals
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, Pace(step, 9))
        logits = model((train.images[rows] / 255 - 0.5) / 0.5)
        target = F.one_hot(train.labels[rows], 3) * (1 - smoothing) + smoothing / 3
        loss = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.stack([grad.norm() for grad in grads]).norm()
        for grad in grads if clip and norm > clip else ():
            grad *= clip / (norm + 1e-6)
        optimizer.step()
        for name, parameter in model.named_parameters():
            keep = min(0.9, (1 + step) / (10 + step))
            average[name] = keep * average[name] + (1 - keep) * parameter.detach()
        hits = (logits.argmax(dim=1) == train.labels[rows]).sum().item()
        assert totals.tolist() == pytest.approx([loss.item() * len(rows), hits], rel=1e-5)
    assert learner.average is not None
    for name, parameter in learner.model.named_parameters():
        averaged = learner.average.model.get_parameter(name)
        for ours, theirs in ((parameter, model.get_parameter(name)), (averaged, average[name])):
            keep = slice(None)
            if name.endswith("qkv.bias"):  # the gradient of a key's bias is nothing but rounding,
                keep = slice(32, None)  # which Adam makes a step of; (q, k, v) of 16 each
            torch.testing.assert_close(ours[keep], theirs[keep], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("count", "size"), [(24, 8), (25, 8), (31, 8), (3, 8), (7, 3), (5, 1)])
def test_an_epoch_has_every_row_once_in_even_batches(count: int, size: int) -> None:
    train = coloured(count, skip=5)
    parts = batches(train, settings_with(batch_size=size), epoch=4)
    assert sorted(torch.cat(parts).tolist()) == train.rows.tolist()
    lengths = [len(part) for part in parts]
    assert len(lengths) == math.ceil(len(train) / size)
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= size


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        torch.manual_seed(torch.seed() % 1000)  # the state around it does not matter
        return torch.cat(batches(coloured(40), settings_with(seed=seed), epoch)).tolist()

    assert order(3, 2) == order(3, 2)
    orders = [order(3, 2), order(3, 3), order(4, 2), order(0, 1), order(1, 0)]
    assert len(set(map(tuple, orders))) == len(orders)


def test_what_a_step_draws_depends_on_seed_and_step_alone() -> None:
    def drawn(step: int, **changes: Any) -> Tensor:
        learner = make_learner(settings_with(**changes))
        seen: list[Tensor] = []
        learner.model.register_forward_pre_hook(lambda model, inputs: seen.append(inputs[0]))
        torch.manual_seed(torch.seed() % 1000)  # the state around it does not matter
        take_step(learner, coloured(8), torch.arange(8), step, total=30)
        return seen[0]

    random = {"augment.mirror": True, "augment.shift": 0.25}
    assert torch.equal(drawn(3, **random), drawn(3, **random))
    assert not torch.equal(drawn(3, **random), drawn(4, **random))
    assert not torch.equal(drawn(3, **random), drawn(3, seed=1, **random))
    assert torch.equal(drawn(3), (coloured(8).images / 255 - 0.5) / 0.5)


class Kept(Saver):
    """Keeps rows in memory, and writes nothing."""

    def __init__(self, learner: Learner, position: Position | None = None) -> None:
        super().__init__(Path("nowhere"), learner, position or Position(), write=unwanted)
        self.rows: list[dict[str, Any]] = []
        self.were_best: list[bool] = []

    def add_row(self, row: dict[str, Any], *, is_best: bool) -> None:
        self.rows.append(row)
        self.were_best.append(is_best)

    def save(self) -> None:
        pass


def unwanted(directory: Path, model: Backbone) -> None:
    raise AssertionError("nothing is to be written")


def run(
    learner: Learner,
    train: Examples,
    val: Examples = NOTHING,
    position: Position | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[bool, list[dict[str, Any]], list[bool]]:
    kept = Kept(learner, position)
    done = fit(learner, train, val, kept, listen=silent, stop=stop)
    return done, kept.rows, kept.were_best


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_computes_in_its_precision(precision: str) -> None:
    learner = make_learner(settings_with(precision=precision))
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    seen: dict[str, torch.dtype] = {}
    for name, module in learner.model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_hook(
                lambda module, given, made, name=name: seen.update({name: made.dtype})
            )
    take_step(learner, coloured(8), torch.arange(8), 0, total=3)
    assert {"patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.mlp.fc1", "head"} <= seen.keys()
    assert set(seen.values()) == {expected}, seen
    parameters = list(learner.model.parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert {p.grad.dtype for p in parameters if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_what_can_be_learned(precision: str) -> None:
    learner = make_learner(settings_with(epochs=10, precision=precision))
    done, rows, best = run(learner, coloured(48), coloured(24))
    assert done
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 1.5
    assert rows[-1]["train_top1"] == rows[-1]["val_top1"] == 1.0
    top1 = [row["val_top1"] for row in rows]
    assert best == [value >= max(top1[: at + 1]) for at, value in enumerate(top1)]


def test_a_row_says_what_happened_in_its_epoch() -> None:
    settings = settings_with(label_smoothing=0.0)
    learner = make_learner(settings)
    _, rows, _ = run(learner, coloured(20), coloured(9))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert [row["lr"] for row in rows] == [learning_rate(settings, Pace(at, 9)) for at in (2, 5, 8)]
    assert rows[0]["seconds"] < rows[1]["seconds"] < rows[2]["seconds"]
    assert all(row["images_per_second"] > 0 for row in rows)


def test_figures_of_an_epoch_are_means_over_its_images() -> None:
    settings = settings_with(epochs=1, label_smoothing=0.0)
    learner, train = make_learner(settings), coloured(20)
    twin = make_learner(settings)
    _, rows, _ = run(learner, train)
    totals = sum(
        take_step(twin, train, batch, step, total=3).totals
        for step, batch in enumerate(batches(train, settings, 0))
    )
    assert isinstance(totals, Tensor)
    assert rows[0]["train_loss"] == pytest.approx(totals[0].item() / 20, rel=1e-6)
    assert rows[0]["train_top1"] == pytest.approx(totals[1].item() / 20, rel=1e-6)


def test_validation_scores_the_averaged_weights() -> None:
    learner, val = make_learner(settings_with()), coloured(10)
    assert learner.average is not None
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.zero_()
        logits = learner.average.model((val.images / 255 - 0.5) / 0.5)
    loss, top1 = validate(learner, val)
    assert loss == pytest.approx(F.cross_entropy(logits, val.labels).item(), abs=1e-6)
    assert top1 == pytest.approx((logits.argmax(1) == val.labels).float().mean().item())


def test_without_an_average_the_weights_themselves_are_scored() -> None:
    learner, val = make_learner(settings_with(ema=0)), coloured(6)
    done, rows, _ = run(learner, coloured(24), val)
    assert done and learner.average is None
    learner.model.eval()
    with torch.no_grad():
        logits = learner.model((val.images / 255 - 0.5) / 0.5)
    assert rows[-1]["val_loss"] == pytest.approx(
        F.cross_entropy(logits, val.labels).item(), abs=1e-6
    )


def test_without_validation_images_every_epoch_is_the_best() -> None:
    learner = make_learner(settings_with())
    assert validate(learner, NOTHING) == (None, None)
    _, rows, best = run(learner, coloured(8))
    assert [(row["val_loss"], row["val_top1"]) for row in rows] == [(None, None)] * 3
    assert best == [True] * 3


def test_a_loss_that_is_never_finite_again_names_the_remedy() -> None:
    learner = make_learner(settings_with(lr=1e30, clip_grad=0, warmup_epochs=0, max_bad_steps=3))
    with pytest.raises(
        Diverged, match=r"3 steps in a row, .* lr=1e\+30 may be too high, try lr=0.001"
    ):
        run(learner, coloured(80))


def test_a_run_without_one_finite_step_is_no_run() -> None:
    learner = make_learner(settings_with(lr=1e-3, epochs=1, max_bad_steps=99))
    learner.model.register_forward_hook(lambda model, given, made: made * torch.nan)
    kept = Kept(learner)
    with pytest.raises(Diverged, match="not one step had a finite loss and gradient; lr=0.001 may"):
        fit(learner, coloured(24), NOTHING, kept, listen=silent, stop=lambda: False)
    assert [(row["train_loss"], row["train_top1"], row["bad_steps"]) for row in kept.rows] == [
        (None, None, 3)
    ]


def test_reading_that_leaves_no_time_is_refused() -> None:
    learner = make_learner(settings_with(minutes=1.0))
    kept = Kept(learner)
    kept.position.before = 62.0
    with pytest.raises(ConfigError, match=r"minutes=1 were over .* after 62 s; try minutes=6.5"):
        fit(learner, coloured(24), NOTHING, kept, listen=silent, stop=lambda: False)


def test_a_first_step_that_compiles_leaves_no_time_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute: as long as 2,400 images would take to score if all steps were like that."""
    now = [0.0]
    monkeypatch.setattr("vitkit.training.loop.time.perf_counter", lambda: now[0])
    step = loop.train_step

    def slow(*arguments: Any, **more: Any) -> Any:
        now[0] += 30.0 if not now[0] else 0.1
        return step(*arguments, **more)

    monkeypatch.setattr("vitkit.training.loop.train_step", slow)
    learner = make_learner(settings_with(minutes=1.0, batch_size=8, precision="fp32"))
    kept = Kept(learner)
    never: dict[str, Any] = {"listen": silent, "stop": lambda: False}
    fit(learner, coloured(24), NOTHING, kept, held_out=400, **never)
    assert 55 < kept.position.seconds <= 60 and kept.position.step > 200


def test_time_is_left_for_the_last_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a second by a clock of our own; an image to score takes 0.4 of one in a step."""
    clock = iter(range(10**6))
    monkeypatch.setattr("vitkit.training.loop.time.perf_counter", lambda: next(clock) / 2)
    steps = []
    for held_out in (0, 40):
        learner = make_learner(settings_with(minutes=1.0, batch_size=8, precision="fp32"))
        kept = Kept(learner)
        fit(
            learner,
            coloured(24),
            NOTHING,
            kept,
            held_out=held_out,
            listen=silent,
            stop=lambda: False,
        )
        steps.append(kept.position.seconds)
    assert steps[0] - steps[1] == pytest.approx(40 * 0.4 / 8 * 0.5, abs=1.5)
    assert steps[1] < 60


def test_weights_whose_validation_is_not_finite_are_never_saved() -> None:
    """Steps that were finite can lead there; then nothing is good of what `Diverged` would save."""
    learner = make_learner(settings_with(epochs=2, ema=0))
    settings, kept = learner.settings, Kept(learner)
    learner.model.register_forward_hook(
        lambda model, given, made: made if model.training else made * torch.nan
    )
    with pytest.raises(ConfigError, match=f"lr={settings.lr:g} may be too high") as caught:
        fit(
            learner,
            coloured(24),
            coloured(6),
            kept,
            listen=silent,
            stop=lambda: False,
        )
    assert not isinstance(caught.value, Diverged)
    assert not kept.rows


def test_steps_that_are_not_finite_change_nothing_and_are_counted() -> None:
    """An image of NaN cannot be, so the model makes one of every batch with a certain image."""
    learner, train = make_learner(settings_with(epochs=2)), coloured(24)
    poison = (train.images[3] / 255 - 0.5) / 0.5

    def spoil(module: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        hit = (inputs[0] == poison).flatten(1).all(dim=1)
        return (torch.where(hit[:, None, None, None], torch.nan, inputs[0]),)

    learner.model.register_forward_pre_hook(spoil)
    position = Position()
    done, rows, _ = run(learner, train, position=position)
    assert done
    assert [row["bad_steps"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["train_loss"]) and row["train_top1"] <= 1 for row in rows)
    assert all(torch.isfinite(parameter).all() for parameter in learner.model.parameters())
    before = [parameter.clone() for parameter in learner.model.parameters()]
    result = take_step(learner, train, torch.arange(8), 6, total=9)
    assert not result.finite
    assert all(map(torch.equal, before, learner.model.parameters()))


@pytest.mark.parametrize(
    ("stop_at", "batch_size"),
    [(1, 8), (2, 8), (3, 8), (4, 8), (5, 8), (8, 8), (9, 8), (1, 20), (3, 20)],
)
def test_stopping_and_going_on_changes_no_bit(stop_at: int, batch_size: int) -> None:
    augment = {"augment.mirror": True, "augment.shift": 0.25}
    settings = settings_with(batch_size=batch_size, **augment)
    model = {"dropout": 0.2, "drop_path": 0.3, "attention_dropout": 0.1, "depth": 2}
    train, val = coloured(20), coloured(6)
    whole = make_learner(settings, **model)
    _, expected, _ = run(whole, train, val)

    learner, position = make_learner(settings, **model), Position()
    torch.manual_seed(99)
    done, rows, _ = run(learner, train, val, position, stop=lambda: position.step >= stop_at)
    assert not done
    assert position.step == stop_at
    torch.manual_seed(77)  # as another process would
    done, more, _ = run(learner, train, val, position)
    assert done
    times = ("seconds", "images_per_second")
    for row in (*expected, *rows, *more):
        for name in times:
            row.pop(name)
    assert rows + more == expected
    assert whole.average is not None and learner.average is not None
    for ours, theirs in (
        (learner.model, whole.model),
        (learner.average.model, whole.average.model),
    ):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)


def test_progress_is_told_of_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkit.training.loop.LISTEN_EVERY", 0.0)
    heard: list[Progress] = []
    learner = make_learner(settings_with(epochs=2))
    fit(
        learner,
        coloured(20),
        coloured(6),
        Kept(learner),
        listen=heard.append,
        stop=lambda: False,
    )
    steps = [(p.phase, p.done, p.total) for p in heard if not p.final]
    assert steps == [(f"epoch {e}/2", done, 20) for e in (1, 2) for done in (7, 14, 20)]
    final = [p for p in heard if p.final]
    assert [p.phase for p in final] == ["epoch 1/2", "epoch 2/2"]
    assert {"loss", "top1", "val loss", "val top1", "img/s"} == set(final[0].figures)
    assert heard[-2].figures["left"] == "0:00"


def test_by_the_clock_ranks_find_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank's clock began at another moment; the rates must be the same all the same."""

    def rates(origin: float) -> list[float]:
        ticks, seen = itertools.count(1), []

        def agree(group: Group, seconds: float = 0.0, **said: bool) -> Agreed:
            return Agreed(next(ticks) * 0.1, False, False)

        def noted(learner: Learner, *given: Any, **named: Any) -> Result:
            result = train_step(learner, *given, **named)
            seen.append(learner.optimizer.param_groups[0]["lr"])
            return result

        clock = itertools.count(origin, 0.01)
        monkeypatch.setattr("vitkit.training.loop.agreed", agree)
        monkeypatch.setattr("vitkit.training.loop.train_step", noted)
        monkeypatch.setattr("vitkit.training.loop.time.perf_counter", lambda: next(clock))
        run(make_learner(settings_with(minutes=0.1)), coloured(24), coloured(6))
        return seen

    assert rates(0.0) == rates(12_345_678.9)


def test_epochs_without_a_row_are_saved_if_every_epoch_is_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Counting(Kept):
        def save(self) -> None:
            saved.append(self.position.step)

    saved: list[int] = []
    monkeypatch.setattr("vitkit.training.loop.worth_scoring", lambda *given: False)
    saver = Counting(make_learner(settings_with(minutes=5.0)))
    saver.every = Every.parse("1 epoch")
    asked = lambda: saver.position.step >= 7  # noqa: E731
    fit(saver.learner, coloured(16), NOTHING, saver, listen=silent, stop=asked)
    assert saved == [2, 4, 6, 7] and not saver.rows
