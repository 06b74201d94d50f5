"""Shards as the images of a run: the same batches wherever it is taken up, on any ranks."""

import io
import itertools
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vitkit
from dropping_server import serving
from vitkit.data.shards.index import NAME, Shard
from vitkit.data.shards.order import Reference
from vitkit.data.shards.remote import Patience
from vitkit.data.shards.source import ShardSource, open_shards
from vitkit.data.shards.write import pack
from vitkit.data.sources import open_source
from vitkit.data.stream import Stream
from vitkit.data.transforms import Preprocess
from vitkit.errors import ConfigError, DataError
from vitkit.training import shards as shards_module
from vitkit.training.config import resolve
from vitkit.training.directory import SHARDS
from vitkit.training.distributed import Group
from vitkit.training.sampling import Batch
from vitkit.training.scoring import scores
from vitkit.training.settings import TrainSettings
from vitkit.training.shard_list import assign, read_shards
from vitkit.training.shards import Lost, ShardSplit

SMALL = Preprocess(image_size=(8, 8))
QUICK = Patience(tries=5, wait=0.001, longest=0.01, timeout=5, progress=1)
COUNT = 60


@pytest.fixture(scope="module")
def shards(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sixty images of `colours` in shards of eight or so."""
    folder = tmp_path_factory.mktemp("shards") / "colours"
    pack(open_source(colours), folder, shard_bytes=15_000)
    return folder


@pytest.fixture(scope="module")
def source(shards: Path) -> ShardSource:
    return open_shards(str(shards))


@pytest.fixture(scope="module")
def stream(source: ShardSource) -> Iterator[Stream]:
    """Two processes that decode for all tests."""
    with Stream(source, SMALL, batch_size=64, workers=2) as stream:
        yield stream


def settings(**given: Any) -> TrainSettings:
    return resolve({"recipe": "none", "batch_size": 7, "seed": 3, **given}).settings


def split(source: ShardSource, stream: Stream, **given: Any) -> ShardSplit:
    options = {"images": COUNT, "buffer": 16, "lost": Lost(0.5), **given}
    return ShardSplit(source, tuple(range(len(source.shards))), stream=stream, **options)


def uncounted(source: ShardSource) -> ShardSource:
    """The same, as if no index had counted it."""
    unknown = tuple(replace(shard, samples=None, counts={}) for shard in source.shards)
    return replace(source, shards=unknown)


def prints(batches: Iterator[Batch]) -> list[tuple[int, ...]]:
    """Every image, by its pixels and label, batch after batch."""
    return [
        tuple(
            hash((image.numpy().tobytes(), int(label))) for image, label in zip(*batch, strict=True)
        )
        for batch in batches
    ]


@pytest.fixture(scope="module")
def everything(source: ShardSource, stream: Stream) -> Counter[int]:
    return Counter(one for batch in prints(split(source, stream).once()) for one in batch)


def test_once_has_every_image_with_its_label(
    source: ShardSource, stream: Stream, colours: Path
) -> None:
    files = open_source(colours)
    expected = Counter(
        hash((SMALL.fit(files.read(i)).tobytes(), sample.label))
        for i, sample in enumerate(files.samples)
    )
    part = split(source, stream)
    assert Counter(one for batch in prints(part.once()) for one in batch) == expected
    name, image = part.pictures([5])[0]
    place = part.places[5]
    assert name.startswith(f"train-{place.shard:06}.tar/")
    np.testing.assert_array_equal(
        image, files.read([s.name for s in files.samples].index(f"{name.partition('/')[2]}.png"))
    )


@pytest.mark.parametrize("ranks", [2, 3, 30])
@pytest.mark.parametrize("counted", [True, False])
def test_ranks_score_parts_that_follow_one_another(
    source: ShardSource,
    stream: Stream,
    ranks: int,
    counted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards_module, "EVALUATION_BATCH", 8)
    known = source if counted else uncounted(source)
    whole = prints(split(known, stream).once())
    parts = [prints(split(known, stream, rank=r, ranks=ranks).once()) for r in range(ranks)]
    together = [batch for part in parts for batch in part]
    if counted:
        assert together == whole and [len(batch) for batch in whole] == [8] * 7 + [4]
    assert [one for batch in together for one in batch] == [one for b in whole for one in b]


def test_an_epoch_has_every_image_once_and_epochs_differ(
    source: ShardSource, stream: Stream, everything: Counter[int]
) -> None:
    part = split(source, stream)
    epochs = [prints(part.epoch(settings(), number)) for number in (0, 1)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [7] * 6 + [6] * 3
        assert Counter(one for batch in epoch for one in batch) == everything
    assert epochs[0] != epochs[1] != prints(part.epoch(settings(seed=4), 1))
    assert prints(part.epoch(settings(), 1)) == epochs[1]


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("rank", [0, 1])
def test_it_is_taken_up_anywhere(
    source: ShardSource, stream: Stream, counted: bool, rank: int
) -> None:
    chosen = settings(**{"augment.scale": [0.3, 1.0]})
    part = split(source if counted else uncounted(source), stream, rank=rank, ranks=2, images=100)
    whole = prints(part.epoch(chosen, 2))
    assert len(whole) == 15
    for done in (1, 4, 9, 14, 15):
        assert prints(part.epoch(chosen, 2, done=done)) == whole[done:]


def test_crops_differ_from_step_to_step(source: ShardSource, stream: Stream) -> None:
    one = settings(**{"augment.scale": [0.3, 1.0]})
    plain, cropped = (
        Counter(i for b in prints(split(source, stream).epoch(s, 0)) for i in b)
        for s in (settings(), one)
    )
    assert len(plain & cropped) < 6
    twice = Counter(i for b in prints(split(source, stream, images=120).epoch(one, 0)) for i in b)
    assert len(twice) > 110  # of images this small some boxes are the same


@pytest.mark.parametrize("ranks", [2, 3, 5, 12])
@pytest.mark.parametrize("counted", [True, False])
def test_every_rank_has_as_many_batches_and_no_image_is_shown_twice(
    source: ShardSource, stream: Stream, everything: Counter[int], ranks: int, counted: bool
) -> None:
    chosen = settings(batch_size=15)
    known = source if counted else uncounted(source)
    parts = [
        prints(split(known, stream, rank=rank, ranks=ranks).epoch(chosen, 1))
        for rank in range(ranks)
    ]
    assert {len(part) for part in parts} == {4}
    for number in range(4):
        assert sum(len(part[number]) for part in parts) == 15
    shown = Counter(one for part in parts for batch in part for one in batch)
    assert shown.total() == COUNT
    if counted:
        assert shown == everything
    else:
        assert set(shown) <= set(everything)


def test_more_ranks_than_shards_share_them(source: ShardSource, stream: Stream) -> None:
    few = replace(source, shards=source.shards[:2])
    counts = [shard.samples or 0 for shard in few.shards]
    for known in (few, uncounted(few)):
        parts = [
            prints(
                split(known, stream, images=sum(counts), rank=rank, ranks=5).epoch(
                    settings(batch_size=8), 0
                )
            )
            for rank in range(5)
        ]
        assert {len(part) for part in parts} == {2}
        shown = Counter(one for part in parts for batch in part for one in batch)
        assert max(shown.values()) <= (1 if known is few else 3)


def test_batches_smaller_than_the_ranks_are_refused(source: ShardSource, stream: Stream) -> None:
    with pytest.raises(ConfigError, match="too small for 9 ranks"):
        split(source, stream, ranks=9).epoch(settings(), 0)


def test_the_number_of_processes_changes_nothing(source: ShardSource, stream: Stream) -> None:
    expected = prints(split(source, stream).epoch(settings(), 0))
    with Stream(source, SMALL, batch_size=7, workers=1, ahead=1) as other:
        assert prints(split(source, other).epoch(settings(), 0)) == expected


def test_a_server_that_breaks_off_changes_nothing(
    shards: Path, source: ShardSource, stream: Stream
) -> None:
    expected = prints(split(source, stream).epoch(settings(), 0))
    files = {f"/{path.name}": path.read_bytes() for path in shards.iterdir()}
    with serving(files) as server, Stream(source, SMALL, batch_size=7, workers=1) as own:
        server.drop_after, server.refuse = 5_000, 2
        last = len(source.shards) - 1
        remote = open_shards(f"{server.url}/train-{{000000..{last:06}}}.tar", patience=QUICK)
        assert remote.shards[0].samples == source.shards[0].samples
        part = split(remote, own)
        assert prints(part.epoch(settings(), 0)) == expected
        assert prints(part.epoch(settings(), 0, done=5)) == expected[5:]
        tars = [start for path, start in server.asked if path.endswith(".tar")]
        assert sum(start > 0 for start in tars) > 10
        server.refuse = 1000
        with pytest.raises(DataError, match="failed 5 times") as caught:
            prints(part.epoch(settings(), 0))
        assert "\n" not in str(caught.value)


def damaged(folder: Path) -> ShardSource:
    """One shard of ten samples, of which number 3 is no image, 4 has no label, 8 another class."""
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as file:
        for number in range(10):
            memory = io.BytesIO()
            Image.new("RGB", (9, 9), (number, 0, 0)).save(memory, "PNG")
            members = {"png": memory.getvalue(), "cls": b"%d" % (number % 2)}
            if number == 3:
                members["png"] = b"\x89PNG\r\n\x1a\n but no more"
            if number == 4:
                del members["cls"]
            if number == 8:
                members["cls"] = b"7"
            for kind, data in members.items():
                info = tarfile.TarInfo(f"{number}.{kind}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return open_shards(str(folder), classes=2)


def test_what_cannot_be_read_is_counted_once_and_replaced(stream: Stream, tmp_path: Path) -> None:
    source = damaged(tmp_path / "x")
    with Stream(source, SMALL, batch_size=64, workers=1) as own:
        part = split(source, own, images=10)
        for number in range(3):
            for images, labels in part.epoch(settings(batch_size=5), number):
                numbers = images[:, 0, 0, 0].tolist()
                assert len(numbers) == 5 and not {3, 4, 8} & set(numbers)
                assert [n % 2 for n in numbers] == labels.tolist()
        assert len(part.lost.places) == 3
        assert {name for name, _ in part.lost.named} == {"0.tar/3", "0.tar/4", "0.tar/8"}
        shown = [images[:, 0, 0, 0].tolist() for images, _ in part.once()]
        assert shown == [[0, 1, 2, 5, 6, 7, 9]] and len(part) == 7
        none = replace(source, shards=(Shard(source.shards[0].name),), classes=())
        with pytest.raises(DataError, match="not one image of a split"):
            scores(lambda images: images, split(none, own, images=10, lost=Lost(1.0)))
        with pytest.raises(DataError, match=r"data.max_unreadable=0.2") as caught:
            for number in range(3):
                list(split(source, own, images=10, lost=Lost(0.2)).epoch(settings(), number))
        assert "\n" not in str(caught.value)


def test_a_batch_that_cannot_be_read_at_all_is_filled_from_the_one_before(
    tmp_path: Path,
) -> None:
    """As a small share of a rank's may be."""
    source, one = damaged(tmp_path / "x"), settings(batch_size=1, seed=1)
    with Stream(source, SMALL, batch_size=64, workers=1) as own:
        shown = prints_of_ones(split(source, own, images=10).epoch(one, 0))
    assert len(shown) == 10 and not {3, 4, 8} & {number for number, _ in shown}
    assert all(label == number % 2 for number, label in shown)
    again = sum(before == after for before, after in itertools.pairwise(shown))
    assert again == 3


def prints_of_ones(batches: Iterator[Batch]) -> list[tuple[int, int]]:
    """Number and label of each batch's one image."""
    return [(int(images[0, 0, 0, 0]), int(labels[0])) for images, labels in batches]


def test_ranks_tell_one_another_what_could_not_be_read() -> None:
    class Pair(Group):
        def each(self, value: Any) -> list[Any]:
            return [value, (theirs.places, theirs.named)]

    ours, theirs = Lost(0.5), Lost(0.5)
    for lost, numbers in ((ours, (1, 2)), (theirs, (2, 3))):
        for number in numbers:
            lost.add(Reference(0, number), f"0.tar/{number}", "no image", 100)
    ours.share(Pair())
    assert ours.places == {Reference(0, number) for number in (1, 2, 3)}
    assert ours.named == [(f"0.tar/{number}", "no image") for number in (1, 2, 3)]


def test_leaving_early_leaves_the_stream_usable(source: ShardSource, stream: Stream) -> None:
    part = split(source, stream)
    expected = prints(part.epoch(settings(), 0))
    for _ in range(3):
        epoch = part.epoch(settings(), 0)
        next(epoch)
        epoch.close()  # type: ignore[attr-defined]
    assert prints(part.epoch(settings(), 0)) == expected


def test_splits_by_name_or_as_a_share_of_the_shards(source: ShardSource) -> None:
    chosen = assign(source, settings())
    parts = [set(numbers) for numbers in chosen.values()]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == len(source.shards)
    assert chosen == assign(source, settings()) != assign(source, settings(seed=9))
    none = assign(source, settings(**{"data.val_fraction": 0.0, "data.test_fraction": 0.0}))
    assert len(none["train"]) == len(source.shards)
    named = [
        replace(one, split=("val", "test", "train")[min(n, 2)])
        for n, one in enumerate(source.shards)
    ]
    own = replace(source, shards=tuple(named))
    assert assign(own, settings())["val"] == [0] and assign(own, settings())["test"] == [1]
    two = replace(source, shards=source.shards[:2])
    with pytest.raises(DataError, match="2 shards to train on and none for test and val"):
        assign(two, settings())


def test_what_needs_any_order_is_refused(source: ShardSource) -> None:
    for key, value in {"data.balanced": True, "data.fraction": 0.5, "augment.repeats": 2}.items():
        with pytest.raises(ConfigError, match=f"{key} needs images in any order"):
            read_shards(source, SMALL, settings(**{key: value}))
    with pytest.raises(DataError, match=r"set data.epoch_images"):
        read_shards(uncounted(source), SMALL, settings())


@pytest.fixture(scope="module")
def sequence(tiny: dict[str, Any]) -> dict[str, Any]:
    own = {"data.loading": "sequential", "data.workers": 1, "augment.scale": [0.5, 1.0]}
    return {**tiny, **own, "lr": 1e-5}  # so slow that there are mistakes to be shown


def weights(run: vitkit.Run) -> dict[str, torch.Tensor]:
    return load_file(run.directory / "last" / "model.safetensors")


def test_a_run_is_scored_reported_and_resumed_to_the_bit(
    shards: Path, sequence: dict[str, Any], tmp_path: Path
) -> None:
    whole = vitkit.train(shards, out=tmp_path / "whole", **sequence)
    assert whole.finished and whole.metrics[-1]["val_top1"] is not None
    report = (whole.directory / "report.html").read_text()
    assert "duplicates were not looked for" in report and "train-0000" in report
    steps = iter(range(5))
    some = vitkit.train(
        shards, out=tmp_path / "some", stop=lambda: next(steps, None) is None, **sequence
    )
    assert not some.finished
    resumed = vitkit.train(shards, out=tmp_path / "some", resume=True, device="cpu")
    assert resumed.finished
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    again = vitkit.evaluate(resumed.directory, shards, split="all")
    assert again.images == COUNT
    scores = resumed.evaluation
    assert scores is not None
    own = vitkit.evaluate(resumed.directory, shards, split="test")
    assert (own.images, own.top1, own.split) == (scores.images, scores.top1, scores.split)
    both = vitkit.compare(whole.directory, resumed.directory, shards)
    assert (both.first.images, both.first.split) == (own.images, own.split)


def test_a_run_on_a_streamed_data_set_is_resumed_to_the_bit(
    colours: Path, sequence: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    files = open_source(colours)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(files.classes))}
    )
    for number in range(6):
        rows = range(number, COUNT, 6)
        images = [
            {"bytes": (colours / files.samples[r].name).read_bytes(), "path": None} for r in rows
        ]
        content = {"image": images, "label": [files.samples[row].label for row in rows]}
        (tmp_path / "set").mkdir(exist_ok=True)
        part = datasets.Dataset.from_dict(content, features=features)
        part.to_parquet(tmp_path / "set" / f"train-{number:05}-of-00006.parquet")
    data = f"hf-datasets:{tmp_path / 'set'}"
    own = {**sequence, "data.epoch_images": 45, "epochs": 2}
    whole = vitkit.train(data, out=tmp_path / "whole", **own)
    assert whole.finished and [row["step"] for row in whole.metrics] == [3, 6]
    report = (whole.directory / "report.html").read_text()
    assert "images that nobody counted" in report and "of each split not counted" in report
    steps = iter(range(4))
    vitkit.train(data, out=tmp_path / "some", stop=lambda: next(steps, None) is None, **own)
    resumed = vitkit.train(data, out=tmp_path / "some", resume=True, device="cpu")
    assert resumed.finished
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_a_resumed_run_wants_the_same_shards(
    shards: Path, sequence: dict[str, Any], tmp_path: Path
) -> None:
    own = tmp_path / "shards"
    shutil.copytree(shards, own)
    vitkit.train(own, out=tmp_path / "run", stop=lambda: True, **sequence)
    index = (own / NAME).read_text()
    (own / NAME).write_text(index.replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(DataError, match=r"data changed since the run started: .*not as it was"):
        vitkit.train(own, out=tmp_path / "run", resume=True, device="cpu")


def test_changed_shards_leave_the_others_in_their_splits(
    shards: Path, sequence: dict[str, Any], tmp_path: Path
) -> None:
    """One shard is gone and one is new: what was trained on is not scored on, nor the other way."""
    own, out = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shards, own)
    vitkit.train(own, out=out, stop=lambda: True, **sequence)
    before = splits_of(out)
    gone = next(name for name, split in before.items() if split == "train")
    index = json.loads((own / NAME).read_text())
    rows = [row for row in index["shards"] if row["name"] != gone]
    shutil.copy(own / gone, own / "new.tar")
    rows.insert(0, {**rows[0], "name": "new.tar", "split": None, "sha256": "0"})
    (own / NAME).write_text(json.dumps({**index, "shards": rows}))
    (own / gone).unlink()
    vitkit.train(own, out=out, resume=True, allow_changes=True, stop=lambda: True, device="cpu")
    assert splits_of(out) == {**{k: v for k, v in before.items() if k != gone}, "new.tar": "train"}


def splits_of(run: Path) -> dict[str, str]:
    entries = json.loads((run / SHARDS).read_text())
    return {Path(entry["name"]).name: entry["split"] for entry in entries}


def test_epoch_images_decides_the_length(
    shards: Path, sequence: dict[str, Any], tmp_path: Path
) -> None:
    run = vitkit.train(
        shards, out=tmp_path / "run", **{**sequence, "data.epoch_images": 100, "epochs": 2}
    )
    assert [row["step"] for row in run.metrics] == [7, 14]
