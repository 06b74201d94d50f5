"""What survives a crash."""

import os
import stat
from pathlib import Path

import pytest
import torch

from vitkit.data.transforms import Preprocess
from vitkit.errors import CheckpointError
from vitkit.models import create_model
from vitkit.models.backbone import Backbone
from vitkit.training.checkpoint import (
    STATE,
    load_state,
    recover,
    replacing_directory,
    save_state,
)
from vitkit.training.config import resolve
from vitkit.training.ema import WeightAverage
from vitkit.training.optim import adamw
from vitkit.training.position import Position
from vitkit.training.step import Heads, Learner


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory that was written once."""
    directory = tmp_path / "last"
    with replacing_directory(directory) as fresh:
        (fresh / "file").write_text("old")
    return directory


def content(directory: Path) -> dict[str, str]:
    """Everything below a directory, hidden files too."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def test_the_new_directory_takes_the_place_of_the_old(saved: Path) -> None:
    with replacing_directory(saved) as fresh:
        assert list(fresh.iterdir()) == []
        (fresh / "other").write_text("new")
        assert content(saved) == {"file": "old"}  # until the end
    assert content(saved.parent) == {"last/other": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_while_filling_keeps_the_old(saved: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), replacing_directory(saved) as fresh:
        (fresh / "file").write_text("half")
        raise error
    assert content(saved.parent) == {"last/file": "old"}


def test_a_disk_that_cannot_be_synced_keeps_the_old(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"), replacing_directory(saved) as fresh:
        (fresh / "file").write_text("new")
    assert content(saved.parent) == {"last/file": "old"}


def test_every_file_reaches_the_disk_before_the_renames(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), fsync(fd))[1])
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (events.append("rename"), rename(self, to))[1]
    )
    with replacing_directory(saved) as fresh:
        (fresh / "a").write_text("1")
        (fresh / "b").write_text("2")
    # both files and the directory that lists them; then the parent that lists the names
    assert events == ["sync"] * 3 + ["rename"] * 2 + ["sync"]


@pytest.mark.parametrize("crash", [1, 2])
def test_a_crash_at_a_rename_is_mended(
    saved: Path, monkeypatch: pytest.MonkeyPatch, crash: int
) -> None:
    rename = Path.rename
    calls = 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == crash:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt), replacing_directory(saved) as fresh:
        (fresh / "file").write_text("new")
    monkeypatch.undo()
    assert saved.exists() == (crash == 1)
    recover(saved)
    assert content(saved) == {"file": "old"}
    with replacing_directory(saved) as fresh:  # what the crash left is in nobody's way
        (fresh / "file").write_text("newer")
    assert content(saved.parent) == {"last/file": "newer"}


def test_recover_leaves_a_whole_directory_alone(saved: Path) -> None:
    recover(saved)
    recover(saved.with_name("absent"))
    assert content(saved.parent) == {"last/file": "old"}


def small(dim: int = 16) -> Backbone:
    return create_model(
        "vit_tiny_patch16_224",
        num_classes=3,
        image_size=16,
        patch_size=8,
        dim=dim,
        depth=1,
        num_heads=2,
    )


def learner_of(model: Backbone, precision: str = "fp32") -> Learner:
    settings = resolve({"precision": precision}).settings
    return Learner(
        model=model,
        network=Heads(model, taught=False),
        optimizer=adamw(model, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99)),
        scaler=torch.amp.GradScaler("cpu", enabled=precision == "fp16", init_scale=64.0),
        average=WeightAverage(model, 0.9),
        teacher=None,
        preprocess=Preprocess(image_size=(16, 16)),
        device=torch.device("cpu"),
        settings=settings,
    )


def trained(steps: int = 2) -> Learner:
    torch.manual_seed(0)
    learner = learner_of(small())
    step(learner, steps)
    return learner


def step(learner: Learner, steps: int) -> None:
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for at in range(steps):
        learner.optimizer.zero_grad()
        learner.model(images).square().mean().backward()
        learner.optimizer.step()
        assert learner.average is not None
        learner.average.update(learner.model, at)


def test_a_saved_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    learner = trained()
    position = Position(step=7, seconds=0.1, best_top1=1 / 3, loss_sum=1e-30, correct=3, seen=9)
    save_state(tmp_path, learner, position)
    again = learner_of(small())
    assert load_state(tmp_path, again) == position
    step(learner, 2)
    step(again, 2)
    assert learner.average is not None and again.average is not None
    for ours, theirs in (
        (learner.model, again.model),
        (learner.average.model, again.average.model),
    ):
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_the_scale_of_float16_comes_back(tmp_path: Path) -> None:
    learner = learner_of(small(), "fp16")
    learner.scaler.scale(torch.ones(()))  # its scale is made when it is first asked for
    learner.scaler.update(1024.0)
    save_state(tmp_path, learner, Position())
    again = learner_of(small(), "fp16")
    load_state(tmp_path, again)
    assert again.scaler.get_scale() == 1024.0


def test_the_state_is_readable_by_everyone_the_umask_lets(tmp_path: Path) -> None:
    save_state(tmp_path, trained(0), Position())
    assert stat.S_IMODE((tmp_path / STATE).stat().st_mode) & 0o444 == 0o444


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "absent":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "noise":
        path.write_bytes(bytes(range(256)) * 8)
    elif how == "list":
        torch.save([1, 2], path)
    elif how == "keys":
        torch.save({"model": {}}, path)
    elif how == "pickle":
        torch.save({"model": Path("x")}, path)
    elif how == "fields":
        state = torch.load(path, weights_only=True)
        torch.save({**state, "position": {"stride": 3}}, path)


@pytest.mark.parametrize(
    "how", ["absent", "empty", "cut", "noise", "list", "keys", "pickle", "fields"]
)
def test_a_damaged_state_is_one_line(tmp_path: Path, how: str) -> None:
    save_state(tmp_path, trained(1), Position())
    damage(tmp_path / STATE, how)
    with pytest.raises(CheckpointError, match=STATE) as caught:
        load_state(tmp_path, learner_of(small()))
    said = str(caught.value)
    assert "\n" not in said and "weights_only" not in said  # torch's advice would be unsafe


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, trained(1), Position())
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        load_state(tmp_path, learner_of(small(dim=32)))
