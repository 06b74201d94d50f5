"""A teacher: its mode, its images, its classes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.transforms.functional as tv
from torch import Tensor, nn

import vitkit
from vitkit.data.transforms import Preprocess
from vitkit.errors import CheckpointError, ConfigError
from vitkit.models import create_model
from vitkit.models.backbone import Backbone
from vitkit.training import run as training
from vitkit.training.config import resolve
from vitkit.training.distill import Teacher, load_teacher
from vitkit.training.prepare import make_learner, prepare
from vitkit.training.schedule import Pace
from vitkit.training.step import Learner, train_step
from vitkit.training.tune import set_training_mode
from vitkit.weights import store

COLOURS = ("blue", "green", "red")
CPU = torch.device("cpu")
STUDENT = Preprocess(image_size=(8, 8))  # mean and std 0.5
OTHER = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
VIT = {"patch_size": 4, "dim": 16, "depth": 2, "num_heads": 2}
RESNET = {"dim": 8, "depths": (1, 1, 1, 1)}

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkit.runtime.device.gains_from_bf16", lambda device: False)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("resnet18", COLOURS, image_size=32)` is a checkpoint with random weights."""

    def checkpoint(
        name: str,
        classes: Sequence[str] = COLOURS,
        *,
        preprocess: dict[str, Any] | None = None,
        image_size: int = 8,
        **model: Any,
    ) -> Path:
        torch.manual_seed(4)
        sizes = {"resnet18": RESNET}.get(name, VIT)
        statistics = preprocess or {}
        channels = len(statistics.get("mean", STUDENT.mean))
        made = create_model(
            name,
            **{**sizes, "num_classes": len(classes), "in_channels": channels, **model},
            image_size=image_size,
        )
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0.0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        folder = tmp_path / f"teacher-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        written = Preprocess(image_size=(image_size, image_size), **statistics)
        store.save(folder, made, architecture=name, classes=classes, preprocess=written.to_timm())
        return folder

    return checkpoint


def teacher_of(path: Path, classes: Sequence[str] = COLOURS) -> Teacher:
    return load_teacher(str(path), classes, STUDENT, CPU)


def images(count: int = 5, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


# What it answers


@pytest.mark.parametrize("size", [8, 16, 12, 4])
def test_it_answers_as_the_model_does_on_images_of_its_own(write: Write, size: int) -> None:
    path = write("vit_tiny_patch16_224", preprocess=OTHER, image_size=size)
    logits = teacher_of(path)(STUDENT.normalise(images()), STUDENT)
    model = vitkit.load(path, device="cpu").model
    pixels = images().double() / 255  # torchvision resizes them, then normalises them by itself
    seen = tv.normalize(tv.resize(pixels, [size, size], antialias=True), **OTHER)
    with torch.no_grad():
        expected = model.double()(seen)
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "order", [("blue", "green", "red"), ("red", "blue", "green"), ("green", "red", "blue")]
)
def test_classes_are_matched_by_name(write: Write, order: tuple[str, ...]) -> None:
    path = write("vit_tiny_patch16_224", order)
    x = STUDENT.normalise(images())
    logits = teacher_of(path)(x, STUDENT)
    with torch.no_grad():
        own = vitkit.load(path, device="cpu").model(x)
    for place, name in enumerate(COLOURS):
        assert torch.equal(logits[:, place], own[:, order.index(name)])


def test_it_computes_in_bfloat16_where_that_is_faster(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, x = teacher_of(write("vit_tiny_patch16_224")), STUDENT.normalise(images())
    kinds: list[torch.dtype] = []
    teacher.model.register_forward_hook(lambda module, given, made: kinds.append(made.dtype))
    plain = teacher(x, STUDENT)
    monkeypatch.setattr("vitkit.runtime.device.gains_from_bf16", lambda device: True)
    half = teacher(x, STUDENT)
    assert kinds == [torch.float32, torch.bfloat16]
    assert plain.dtype == half.dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0.05, atol=0.05)


def test_a_teacher_with_two_heads_answers_by_their_mean(write: Write) -> None:
    path = write("deit_tiny_distilled_patch16_224")
    teacher, x = teacher_of(path), STUDENT.normalise(images())
    with torch.no_grad():
        heads = teacher.model.forward_heads(teacher.model.forward_features(x))
    torch.testing.assert_close(teacher(x, STUDENT), sum(heads) / 2)


# In a step of training


def student(colours: Path, tiny: dict[str, Any], teacher: Path, **more: Any) -> Learner:
    given = {**tiny, "distill.teacher": str(teacher), "warmup_epochs": 0, **more}
    learner = make_learner(prepare(colours, resolve(given)))
    set_training_mode(learner.model)
    return learner


def inputs_of(model: Backbone) -> list[Tensor]:
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    return seen


MIXED = {
    "mix.mixup": 0.8,
    "mix.cutmix": 1.0,
    "mix.mode": "pair",
    "augment.shift": 0.3,
    "augment.erase": 0.5,
    "augment.policy": "randaugment",
}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_sees_the_students_mixed_images_in_its_own_normalisation(
    write: Write, colours: Path, tiny: dict[str, Any], accumulate: int
) -> None:
    path = write("resnet18", preprocess=OTHER)
    learner = student(colours, tiny, path, accumulate=accumulate, **MIXED)
    assert learner.teacher is not None
    ours, theirs = inputs_of(learner.model), inputs_of(learner.teacher.model)
    train_step(learner, images(8), torch.arange(8) % 3, Pace(0, 10))
    assert len(ours) == len(theirs) == accumulate
    for x, y in zip(ours, theirs, strict=True):
        mean, std = (torch.tensor(OTHER[key]).view(3, 1, 1) for key in ("mean", "std"))
        torch.testing.assert_close(y * std + mean, x * 0.5 + 0.5, rtol=0, atol=1e-6)
    plain = STUDENT.normalise(images(8))
    assert not torch.equal(torch.cat(ours), plain)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("resnet18", {"drop_path": 0.5}),
        ("vit_tiny_patch16_224", {"dropout": 0.5, "attention_dropout": 0.5, "drop_path": 0.5}),
    ],
)
def test_it_stays_in_evaluation_mode_and_as_it_is(
    write: Write, colours: Path, tiny: dict[str, Any], name: str, model: dict[str, Any]
) -> None:
    """BatchNorm's statistics are not those of the batch nor change, and nothing is dropped."""
    path = write(name, **model)
    learner = student(colours, tiny, path)
    teacher = learner.teacher
    assert teacher is not None
    before = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    answers: list[Tensor] = []
    teacher.model.register_forward_hook(lambda module, given, made: answers.append(made))
    for step in range(3):
        train_step(learner, images(8), torch.arange(8) % 3, Pace(step, 10))
    assert not any(module.training for module in teacher.model.modules())
    after = teacher.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert not any(answer.requires_grad for answer in answers)
    x = STUDENT.normalise(images(8))
    alone = torch.cat([teacher(one[None], STUDENT) for one in x])  # as no batch norm in training
    torch.testing.assert_close(teacher(x, STUDENT), alone, rtol=0, atol=1e-5)
    assert torch.equal(teacher(x, STUDENT), teacher(x, STUDENT))


def tinted(count: int = 32) -> Tensor:
    """Images that a model trained on `colours` tells apart."""
    pixels = images(count) // 2
    pixels[torch.arange(count), torch.arange(count) % 3] += 125
    return pixels


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_with_the_whole_loss_a_student_comes_to_answer_as_its_teacher(
    finished: vitkit.Run, colours: Path, tiny: dict[str, Any], kind: str
) -> None:
    """The labels are all wrong, and do not count."""
    given = {"distill.kind": kind, "distill.alpha": 1.0, "lr": 3e-3}
    learner = student(colours, tiny, finished.directory, **given)
    assert learner.teacher is not None
    x = STUDENT.normalise(tinted())
    chosen = learner.teacher(x, STUDENT).argmax(dim=1)
    assert len(chosen.unique()) == 3
    for step in range(100):
        train_step(learner, tinted(), (chosen + 1) % 3, Pace(step, 1000))
    with torch.no_grad():
        assert (learner.model.eval()(x).argmax(dim=1) == chosen).float().mean() > 0.9


def test_the_second_head_learns_from_the_teacher_and_the_first_from_labels(
    finished: vitkit.Run, colours: Path, tiny: dict[str, Any]
) -> None:
    given = {"model.name": "deit_tiny_distilled_patch16_224", "lr": 3e-3}
    learner = student(colours, tiny, finished.directory, **given)
    assert learner.teacher is not None
    x = STUDENT.normalise(tinted())
    chosen = learner.teacher(x, STUDENT).argmax(dim=1)
    labels = (chosen + 1) % 3
    for step in range(100):
        train_step(learner, tinted(), labels, Pace(step, 1000))
    model: Any = learner.model.eval()
    with torch.no_grad():
        ours, taught = model.forward_heads(model.forward_features(x))
    assert (ours.argmax(dim=1) == labels).float().mean() > 0.9
    assert (taught.argmax(dim=1) == chosen).float().mean() > 0.9


# Whole runs


def test_a_run_with_a_teacher_is_resumed_and_leaves_a_model_like_any(
    finished: vitkit.Run, colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    before = (finished.directory / "best" / "model.safetensors").read_bytes()
    given = {**tiny, "model.name": "deit_tiny_distilled_patch16_224", "epochs": 2}
    plain = vitkit.train(colours, out=tmp_path / "plain", **given)
    teacher = {"teacher": finished.directory}
    whole = vitkit.train(colours, out=tmp_path / "whole", **teacher, **given)
    asked = iter(range(100))
    parts = {"out": tmp_path / "parts", **teacher}
    assert not vitkit.train(colours, **parts, stop=lambda: next(asked) == 3, **given).finished
    again = vitkit.train(colours, **parts, resume=True)
    kept = [run.directory / "best" / "model.safetensors" for run in (whole, again, plain)]
    assert kept[0].read_bytes() == kept[1].read_bytes() != kept[2].read_bytes()
    assert (finished.directory / "best" / "model.safetensors").read_bytes() == before
    names = vitkit.load(whole.directory).model.state_dict().keys()
    assert names == vitkit.load(plain.directory).model.state_dict().keys()
    saved = (whole.directory / "config.yaml").read_text()
    assert f"teacher: {finished.directory}" in saved


def test_a_model_can_be_its_own_kind_of_teacher_at_another_size(
    finished: vitkit.Run, colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    given = {**tiny, "epochs": 1, "data.image_size": 16, "distill.kind": "soft"}
    run = vitkit.train(colours, teacher=finished.directory, out=tmp_path / "run", **given)
    assert run.evaluation is not None


# Mistakes


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("blue", "green", "mauve"), "the teacher does not know 'red'; train the teacher on the"),
        (("a", "b", "c"), "the teacher does not know 'blue' and 2 more; train the teacher on"),
        ((*COLOURS, "white"), "only it knows 'white'; train the teacher on the same classes"),
        (("white", *COLOURS, "x"), "only it knows 'white' and 1 more; train the teacher on"),
        (("blue", "red"), "the teacher does not know 'green'; train the teacher on the same"),
    ],
)
def test_other_classes_are_one_line(write: Write, classes: tuple[str, ...], message: str) -> None:
    path = write("vit_tiny_patch16_224", classes)
    with pytest.raises(ConfigError) as caught:
        teacher_of(path)
    said = str(caught.value)
    assert said.startswith(f"distill.teacher={path} has other classes than the data: ")
    assert message in said
    assert "\n" not in said


def test_other_channels_are_one_line(write: Write) -> None:
    path = write("vit_tiny_patch16_224", preprocess={"mean": (0.5,), "std": (0.5,)})
    with pytest.raises(ConfigError, match="takes 1 channels, the student 3; set data.mean") as e:
        teacher_of(path)
    assert "\n" not in str(e.value)


def test_a_teacher_that_is_not_there_or_not_whole(write: Write, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent does not exist; give a run, a checkpoint"):
        teacher_of(tmp_path / "absent")
    path = write("vit_tiny_patch16_224")
    cfg = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**cfg, "label_names": []}))
    with pytest.raises(CheckpointError, match="no list of 3 names"):
        teacher_of(path)


def test_a_wrong_teacher_stops_a_run_before_it_begins(
    write: Write, colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    path = write("vit_tiny_patch16_224", ("a", "b", "c"))
    with pytest.raises(ConfigError, match="has other classes than the data"):
        training.train_resolved(
            colours, resolve({**tiny, "distill.teacher": str(path)}), directory=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()
