"""What survives a crash."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vitkit.data.transforms import Preprocess
from vitkit.errors import CheckpointError
from vitkit.models import create_model
from vitkit.models.backbone import Backbone
from vitkit.training.checkpoint import (
    MANIFEST,
    STATE,
    fault,
    load_optimizer,
    load_state,
    newest,
    recover,
    replacing_directory,
    save_state,
)
from vitkit.training.config import resolve
from vitkit.training.ema import WeightAverage
from vitkit.training.lamb import LAMB
from vitkit.training.optim import make_optimizer
from vitkit.training.position import Position
from vitkit.training.step import Heads, Learner


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory that was written twice, and the one before it."""
    directory = tmp_path / "last"
    write(directory, "oldest")
    write(directory, "old")
    return directory


def write(directory: Path, text: str) -> None:
    with replacing_directory(directory, keep=directory.with_name("previous")) as fresh:
        (fresh / "file").write_text(text)


def content(directory: Path) -> dict[str, str]:
    """Everything below a directory, hidden files too, but for the manifests."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(directory)): path.read_text() for path in files}


UNTOUCHED = {"last/file": "old", "previous/file": "oldest"}


def test_the_new_directory_takes_the_place_of_the_old(saved: Path) -> None:
    with replacing_directory(saved, keep=saved.with_name("previous")) as fresh:
        assert list(fresh.iterdir()) == []
        (fresh / "other").write_text("new")
        assert content(saved) == {"file": "old"}  # until the end
    assert content(saved.parent) == {"last/other": "new", "previous/file": "old"}
    assert fault(saved) is None


def test_without_a_place_to_keep_it_the_old_is_gone(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with replacing_directory(tmp_path / "best") as fresh:
            (fresh / "file").write_text(text)
    assert content(tmp_path) == {"best/file": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_while_filling_keeps_the_old(saved: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), replacing_directory(saved) as fresh:
        (fresh / "file").write_text("half")
        raise error
    assert content(saved.parent) == UNTOUCHED


CALLS = {  # on the way to the disk, and how often each is made for one file
    "fsync": (os, "fsync", 4),
    "rename": (Path, "rename", 3),
    "mkdir": (Path, "mkdir", 1),
    "write_text": (Path, "write_text", 2),
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize(
    ("name", "call"), [(name, call) for name, (*_, most) in CALLS.items() for call in range(most)]
)
def test_a_disk_that_fails_at_any_call_is_one_line_and_keeps_the_old(
    saved: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int, number: int
) -> None:
    owner, attribute, _ = CALLS[name]
    real, calls = getattr(owner, attribute), 0

    def failing(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise OSError(number, os.strerror(number))
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, failing)
        with pytest.raises(CheckpointError, match=os.strerror(number)) as caught:
            write(saved, "new")
    assert "\n" not in str(caught.value) and "--resume" in str(caught.value)
    for directory in (saved, saved.with_name("previous")):
        recover(directory)
        assert fault(directory) is None
    whole = content(saved)["file"], content(saved.with_name("previous"))["file"]
    assert whole in {("old", "oldest"), ("new", "old")}


def test_every_file_reaches_the_disk_before_the_renames(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), fsync(fd))[1])
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (events.append("rename"), rename(self, to))[1]
    )
    with replacing_directory(saved, keep=saved.with_name("previous")) as fresh:
        (fresh / "a").write_text("1")
        (fresh / "b").write_text("2")
    # both files, the manifest and the directory; then the parent that lists the names
    assert events == ["sync"] * 4 + ["rename"] * 3 + ["sync"]


@pytest.mark.parametrize("crash", [1, 2, 3])
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
    with pytest.raises(KeyboardInterrupt):
        write(saved, "new")
    monkeypatch.undo()
    for directory in (saved, saved.with_name("previous")):
        recover(directory)
    expected = {"last/file": "new", "previous/file": "old"} if crash == 3 else UNTOUCHED
    visible = {name: text for name, text in content(saved.parent).items() if name[0] != "."}
    assert visible == expected
    write(saved, "newer")  # what the crash left is in nobody's way
    assert content(saved.parent) == {"last/file": "newer", "previous/file": expected["last/file"]}


def test_a_half_written_directory_is_never_put_in_place(tmp_path: Path) -> None:
    half = tmp_path / ".last.new"
    half.mkdir()
    (half / "file").write_text("half")
    recover(tmp_path / "last")
    assert not (tmp_path / "last").exists()


def test_recover_leaves_a_whole_directory_alone(saved: Path) -> None:
    recover(saved)
    recover(saved.with_name("absent"))
    assert content(saved.parent) == UNTOUCHED


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "bit": (lambda last: flip(last / "file"), "file is not what was written"),
    "cut": (lambda last: (last / "file").write_text("ol"), "file is not what was written"),
    "file": (lambda last: (last / "file").unlink(), "file is not there"),
    "manifest": (lambda last: (last / MANIFEST).unlink(), f"{MANIFEST} is not there"),
    "words": (lambda last: (last / MANIFEST).write_text("{"), f"{MANIFEST} cannot be read"),
    "list": (lambda last: (last / MANIFEST).write_text("[1]"), f"{MANIFEST} cannot be read"),
    "empty": (lambda last: (last / MANIFEST).write_text("{}"), f"{MANIFEST} cannot be read"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_damaged_is_named_and_the_one_before_is_used(saved: Path, how: str) -> None:
    spoil, said = SPOILED[how]
    spoil(saved)
    assert (fault(saved) or "").startswith(said)
    chosen, note = newest(saved.parent)
    assert chosen == saved and said in note and "before it" in note
    assert content(saved.parent) == {"last/file": "oldest"}
    assert newest(saved.parent) == (saved, "")


def test_a_last_that_is_gone_is_spoken_of_too(saved: Path) -> None:
    shutil.rmtree(saved)
    chosen, note = newest(saved.parent)
    assert chosen == saved and "gone" in note
    assert content(saved) == {"file": "oldest"}


def test_where_all_are_damaged_nothing_is_touched(saved: Path) -> None:
    flip(saved / "file")
    flip(saved.with_name("previous") / "file")
    before = content(saved.parent)
    with pytest.raises(CheckpointError, match=r"last/: file is not .*; previous/: file is not"):
        newest(saved.parent)
    assert content(saved.parent) == before


def test_where_nothing_was_written_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, "")


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
        optimizer=make_optimizer(model, name="adamw", lr=0.01, weight_decay=0.1, betas=(0.9, 0.99)),
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


def test_settings_of_the_optimiser_are_those_of_now(tmp_path: Path) -> None:
    save_state(tmp_path, trained(), Position())
    again = learner_of(small())
    for group in again.optimizer.param_groups:
        group.update(weight_decay=0.5, betas=(0.8, 0.9), lr=1.0)
    load_state(tmp_path, again)
    for group in again.optimizer.param_groups:
        assert (group["weight_decay"], group["betas"], group["lr"]) == (0.5, (0.8, 0.9), 0.01)


def test_the_count_of_steps_is_no_setting(tmp_path: Path) -> None:
    def lamb() -> LAMB:
        return LAMB([torch.nn.Parameter(torch.ones(2))])

    before, after = lamb(), lamb()
    before.step()
    load_optimizer(after, before.state_dict())
    assert after.param_groups[0]["step"] == 1


def test_an_average_that_the_run_did_not_have_begins_with_its_weights(tmp_path: Path) -> None:
    learner = trained()
    save_state(tmp_path, replace(learner, average=None), Position())
    again = learner_of(small())
    load_state(tmp_path, again)
    assert again.average is not None
    torch.testing.assert_close(
        again.average.model.state_dict(), learner.model.state_dict(), rtol=0, atol=0
    )


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
