"""The part of the training images that a run uses."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import vitkit
from vitkit.training.dataset import open_data, share_of, to_train_on
from vitkit.training.sampling import Examples
from vitkit.training.settings import DataSettings

SIZES = (100, 30, 1)  # images of each class


@pytest.fixture
def train() -> Examples:
    """Every second row belongs to the split, in classes of very different sizes."""
    labels = torch.arange(3).repeat_interleave(2 * torch.tensor(SIZES))
    return Examples(torch.empty(len(labels), 3, 2, 2), labels, torch.arange(0, len(labels), 2))


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.5, (50, 15, 1)), (0.1, (10, 3, 1)), (0.001, (1, 1, 1)), (1.0, SIZES)],
)
def test_every_class_gives_its_share(
    train: Examples, fraction: float, expected: tuple[int, ...]
) -> None:
    part = share_of(train, fraction, seed=0)
    counts = Counter(part.labels[part.rows].tolist())
    assert tuple(counts[label] for label in range(3)) == expected
    assert set(part.rows.tolist()) <= set(train.rows.tolist())
    assert len(set(part.rows.tolist())) == len(part) == sum(expected)


def test_the_seed_decides_and_small_shares_lie_within_large_ones(train: Examples) -> None:
    some = share_of(train, 0.1, seed=1).rows.tolist()
    assert share_of(train, 0.1, seed=1).rows.tolist() == some
    assert share_of(train, 0.1, seed=2).rows.tolist() != some
    assert set(some) < set(share_of(train, 0.4, seed=1).rows.tolist())


def test_a_run_learns_from_its_share_and_is_scored_on_the_same_images(
    finished: vitkit.Run, colours: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    heard = []
    settings = {**tiny, "epochs": 1, "data.fraction": 0.1}
    run = vitkit.train(colours, out=tmp_path / "run", listen=heard.append, **settings)
    (counts,) = (p.figures for p in heard if p.phase == "images")
    assert counts == {"train": "4", "val": "5", "test": "12"}  # of 14, 14 and 15
    assert run.metrics[0]["step"] == 1
    assert "learned from 4 training images" in (run.directory / "report.html").read_text()
    split = (run.directory / "split.csv").read_text()
    assert split == (finished.directory / "split.csv").read_text()


def test_what_is_left_to_train_on_is_known_before_the_split(
    finished: vitkit.Run, colours: Path, tiny: dict[str, Any]
) -> None:
    settings = DataSettings(**{k[5:]: v for k, v in tiny.items() if k.startswith("data.")})
    lines = (finished.directory / "split.csv").read_text().splitlines()
    used = sum(line.endswith(",train") for line in lines)
    assert abs(to_train_on(open_data(colours, settings), settings) - used) <= 1
    half = settings.model_copy(update={"fraction": 0.5})
    assert abs(to_train_on(open_data(colours, half), half) - used / 2) <= 1
