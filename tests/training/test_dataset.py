"""The part of the training images that a run uses."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vitkit
from vitkit.data.sources import Sample, Source
from vitkit.data.transforms import Preprocess
from vitkit.training.config import resolve
from vitkit.training.dataset import open_data, share_of, to_train_on
from vitkit.training.reading import placed, room_for
from vitkit.training.sampling import Examples, Whole
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


@pytest.mark.parametrize(
    ("side", "frame"), [((300, 500), (36, 48)), ((30, 20), (30, 32)), ((9, 90), (24, 48))]
)
def test_whole_images_are_kept_no_larger_than_they_are(
    side: tuple[int, int], frame: tuple[int, int]
) -> None:
    def read(index: int, view: Any = None) -> Any:
        return torch.zeros(*side, 3, dtype=torch.uint8).numpy()

    source = Source("fake", ("a",), (Sample("0", 0),), read)
    preprocess, cut = Preprocess(image_size=(24, 32)), {"augment.scale": (0.3, 1.0)}
    assert room_for(source, preprocess, resolve(cut).settings).frame == frame
    room = room_for(source, preprocess, resolve({}).settings)
    assert room.frame is None and room.bytes == 3 * 24 * 32


def test_images_stay_where_they_are_for_a_cpu(train: Examples) -> None:
    splits = {"train": train}
    assert placed(splits, torch.device("cpu")) is splits and placed(splits, None) is splits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_images_lie_on_the_cuda_device(train: Examples) -> None:
    device = torch.device("cuda")
    pixels = torch.randint(256, (len(train.labels), 3, 9, 9), dtype=torch.uint8)
    sides = torch.full((len(pixels), 2), 9, dtype=torch.int32)
    there = replace(train, images=pixels[:, :, :6, :6], whole=Whole(pixels, sides))
    moved = placed({"train": there}, device)["train"]
    settings = resolve({"batch_size": 16, "augment.scale": (0.3, 1.0)}).settings
    for ours, theirs in zip(moved.epoch(settings, 0), there.epoch(settings, 0), strict=True):
        assert ours[0].device.type == "cuda"
        assert (ours[0].cpu().int() - theirs[0].int()).abs().max() <= 1
        assert torch.equal(ours[1], theirs[1])
