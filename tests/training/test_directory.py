"""Who may use a run's directory."""

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from vitkit.errors import CheckpointError
from vitkit.training.directory import CONFIG, claimed, title


def hold(directory: Path, held: Event, done: Event) -> None:
    with claimed(directory, resume=False):
        held.set()
        done.wait(30)


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "run", held, done))
    other.start()
    assert held.wait(60)
    for resume in (False, True):
        with (
            pytest.raises(CheckpointError, match="another process trains in"),
            claimed(tmp_path / "run", resume),
        ):
            pass
    assert (tmp_path / "run").is_dir()  # the loser removes nothing
    done.set()
    other.join()
    with claimed(tmp_path / "run", resume=False):
        (tmp_path / "run" / CONFIG).touch()
    assert (tmp_path / "run" / CONFIG).exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_directory_in_which_nothing_began_is_removed(
    tmp_path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error), claimed(tmp_path / "a" / "run", resume=False):
        raise error
    assert not (tmp_path / "a" / "run").exists()


def test_what_died_before_it_began_is_begun_again(tmp_path: Path) -> None:
    for name in ("split.csv", "contents.csv", "env.json", ".config.yaml.0123456789abcdef"):
        (tmp_path / name).touch()
        with claimed(tmp_path, resume=False):
            pass
    (tmp_path / "notes.txt").touch()  # of somebody else
    with pytest.raises(CheckpointError, match="exists already"), claimed(tmp_path, resume=False):
        pass


def test_what_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "run", tmp_path / "file"):
        with (
            pytest.raises(CheckpointError, match=r"cannot be made \(.*\); choose another"),
            claimed(path, resume=False),
        ):
            pass


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("in/flowers.zip", "flowers"),
        ("shapes:count=9", "shapes"),
        ("http://me:secret@host/sets/train-{000..099}.tar?sig=secret", "train"),
        ("https://host/flowers/shards.json", "shards"),
        ("shards/imagenet-train-*.tar", "imagenet-train"),
        ("hf-datasets:owner/flowers:train", "flowers"),
    ],
)
def test_a_run_is_called_after_its_data(data: str, name: str) -> None:
    assert title(data) == name
