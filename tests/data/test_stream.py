"""Random crops and the processes that read them: the same pixels whoever reads, and no end lost."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from vitkit.data import crop as crops
from vitkit.data.crop import RandomCrop, resize
from vitkit.data.sources import Source, open_source
from vitkit.data.stream import Share, Stream, read_one, read_share
from vitkit.data.transforms import RESAMPLING, Preprocess
from vitkit.data.view import View
from vitkit.errors import ConfigError, DataError

SMALL = Preprocess(image_size=(12, 16))
CROP = RandomCrop()
RATIO = (3 / 4, 4 / 3)
PLAN = [[5, 3, 9, 0, 7], [1, 1, 8], [2], [4, 6, 11, 10, 5], [0, 3]]


def write_images(folder: Path, count: int = 12) -> Path:
    """Two classes of JPEG files of many sizes, the odd ones lying on their side.

    Those have sides of whole blocks: else the turned grid of a reduction does not begin at 0.
    """
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        size = (88 + 8 * number, 72 + 8 * number) if number % 2 else (90 + 7 * number, 70 + number)
        exif = Image.Exif()
        exif[274] = 6 if number % 2 else 1
        path = folder / "ab"[number // 6] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, exif=exif)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(write_images(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def streams(source: Source) -> Iterator[dict[int, Stream]]:
    """Of one process and of two, which serve one test after the other."""
    with (
        Stream(source, SMALL, batch_size=5, workers=1, ahead=1) as one,
        Stream(source, SMALL, batch_size=6, workers=2) as two,
    ):
        yield {1: one, 2: two}
        processes = pids(one) + pids(two)
    assert len(processes) == 3 and not any(map(is_alive, processes))
    assert not multiprocessing.active_children()


def pids(stream: Stream) -> list[int]:
    return [process.pid or 0 for process, _ in stream._workers]


def is_alive(pid: int) -> bool:
    """Whether a process runs, or has ended and nobody has asked how."""
    return Path(f"/proc/{pid}").exists()


def wait_until_gone(processes: list[int], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while any(map(is_alive, processes)):
        assert time.monotonic() < end, f"still there: {list(filter(is_alive, processes))}"
        time.sleep(0.02)


# --- boxes ----------------------------------------------------------------------------------------


def figures(height: int, width: int, boxes: np.ndarray) -> np.ndarray:
    """Share of the area, logarithm of the ratio, and place in the room there is: (n, 4)."""
    top, left, h, w = boxes.T
    places = ((top + 0.5) / (height - h + 1), (left + 0.5) / (width - w + 1))
    return np.stack([h * w / (height * width), np.log(w / h), *places], axis=1)


@pytest.mark.parametrize(
    ("frame", "scale", "ratio"),
    [
        ((375, 500), (0.08, 1.0), RATIO),
        ((375, 500), (0.5, 0.9), (0.5, 3.0)),
        ((32, 32), (0.08, 1.0), RATIO),
        ((30, 32), (0.97, 1.0), RATIO),
        ((60, 20), (0.3, 1.0), RATIO),  # few of ten fit
        ((20, 60), (0.3, 0.9), (0.5, 0.8)),
    ],
)
def test_boxes_are_distributed_as_in_torchvision(
    frame: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    same_distribution: Callable[..., bool],
) -> None:
    (height, width), count, crop = frame, 2500, RandomCrop(scale, ratio)
    views = [crop.view(height, width, least=(1, 1), key=(7, 0, i)) for i in range(count)]
    ours = np.array([(view.top, view.left, view.height, view.width) for view in views])
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= (height, width)).all()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)]
    )
    pairs = zip(figures(height, width, ours).T, figures(height, width, theirs).T, strict=True)
    assert all(same_distribution(one, other) for one, other in pairs)


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (1, 40), (40, 1)])
def test_oblong_images_show_their_middle(height: int, width: int) -> None:
    crop = RandomCrop((0.9, 1.0), RATIO)
    view = crop.view(height, width, least=(1, 1), key=(0, 0, 0))
    top, left, h, w = RandomResizedCrop.get_params(
        torch.empty(3, height, width), list(crop.scale), list(crop.ratio)
    )
    assert (view.top, view.left, view.height, view.width) == (top, left, h, w)


@pytest.mark.parametrize(
    "ranges",
    [{"scale": (0.0, 1.0)}, {"scale": (0.5, 0.4)}, {"scale": (0.5, 1.1)}, {"ratio": (0.0, 1.0)},
     {"ratio": (2.0, 1.0)}, {"ratio": (1.0, float("nan"))}, {"scale": (float("nan"), 1.0)}],
)  # fmt: skip
def test_empty_ranges(ranges: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(ranges))}=.* the smaller first"):
        RandomCrop(**ranges)


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(61, 83), (9, 7), (1, 300), (30, 40)])
@pytest.mark.parametrize("fast", [True, False])
def test_resize_matches_pillow(
    interpolation: str,
    channels: int,
    shape: tuple[int, int],
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crops, "has_fast_kernel", lambda: fast)
    image = np.random.default_rng(0).integers(0, 256, (*shape, channels), dtype=np.uint8)
    image.flags.writeable = False
    given = resize(image, (30, 40), interpolation)
    assert given.shape == (channels, 30, 40) and given.dtype == torch.uint8
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    expected = np.asarray(picture.resize((40, 30), RESAMPLING[interpolation]))
    expected = expected.reshape(30, 40, channels).transpose(2, 0, 1)
    gap = np.abs(given.numpy().astype(int) - expected)
    assert gap.max() <= 2 * fast and (gap > 1).mean() < 0.001 and gap.mean() < 0.02


def shown_by_pillow(path: Path, view: View, preprocess: Preprocess) -> np.ndarray:
    """The box of a file decoded whole, grown to pixels of the reduced one, resized: (C, h, w)."""
    with Image.open(path) as file:
        turned = file.getexif().get(274) == 6
        image = file.convert("RGB")
    image = image.transpose(Image.Transpose.ROTATE_270) if turned else image
    left, top, right, bottom = (edge * view.divisor for edge in view.box(view.divisor))
    image = image.crop((left, top, min(right, image.width), min(bottom, image.height)))
    image = image.convert("L") if preprocess.channels == 1 else image
    height, width = preprocess.image_size
    image = image.resize((width, height), RESAMPLING[preprocess.interpolation])
    return np.asarray(image).reshape(height, width, -1).transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "worst", "mean"),
    [((70, 90), 2, 0.2), ((12, 16), 6, 1.2)],  # the larger size leaves no room for a reduction
)
def test_a_crop_shows_what_pillow_shows(
    source: Source, channels: int, size: tuple[int, int], worst: int, mean: float
) -> None:
    preprocess = Preprocess(image_size=size, mean=(0.5,) * channels, std=(0.5,) * channels)
    reduced = 0
    for row, sample in enumerate(source.samples):
        key = (4, 2, row)
        given = read_one(source.read, row, preprocess, CROP, key).numpy()
        height, width = source.read(row).shape[:2]
        view = CROP.view(height, width, least=size, key=key)
        expected = shown_by_pillow(Path(source.name) / sample.name, view, preprocess)
        gap = np.abs(given.astype(int) - expected)
        assert gap.max() <= worst and gap.mean() <= mean
        reduced += view.divisor > 1
    assert (reduced > 5) if size == (12, 16) else reduced == 0


@pytest.mark.parametrize("data", ["digits", "shapes:count=8,size=32"])
def test_what_is_no_file_has_views_too(data: str) -> None:
    source = open_source(data)
    part = source.subset([5, 3])
    side = source.read(3).shape[0]
    view = View(1, 2, side - 3, side - 4, (1, 1))
    expected = source.read(3)[1 : side - 2, 2 : side - 2]
    np.testing.assert_array_equal(part.read(1, lambda height, width: view), expected)
    np.testing.assert_array_equal(part.read(1), source.read(3))


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["lists", "tensors"])
def test_batches_without_crop_are_those_of_fit(
    source: Source, streams: dict[int, Stream], workers: int, kind: str
) -> None:
    plan = PLAN if kind == "lists" else [torch.tensor(rows) for rows in PLAN]
    batches = list(streams[workers].batches(plan))
    assert len(batches) == len(PLAN)
    for batch, rows in zip(batches, PLAN, strict=True):
        expected = np.stack([SMALL.fit(source.read(row)) for row in rows])
        np.testing.assert_array_equal(batch.numpy(), expected)


def test_pixels_depend_on_seed_batch_and_place_only(
    source: Source, streams: dict[int, Stream]
) -> None:
    batches = list(streams[1].batches(PLAN, crop=CROP, seed=3))
    for number, rows in enumerate(PLAN):
        expected = [
            read_one(source.read, row, SMALL, CROP, (3, number, at)) for at, row in enumerate(rows)
        ]
        assert torch.equal(batches[number], torch.stack(expected))
    assert same(batches, streams[2].batches(PLAN, crop=CROP, seed=3))
    assert same(batches[2:], streams[2].batches(PLAN[2:], crop=CROP, seed=3, first=2))
    assert not torch.equal(batches[1][0], batches[1][1])  # one image, twice
    other = list(streams[2].batches(PLAN, crop=CROP, seed=4))
    assert not any(map(torch.equal, batches, other))


def same(batches: list[Tensor], others: Iterator[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(batches, others, strict=True))


def test_nothing_is_asked_for_too_early(streams: dict[int, Stream]) -> None:
    asked: list[int] = []

    def plan() -> Iterator[list[int]]:
        for number in range(10):
            asked.append(number)
            yield [number]

    for number, _ in enumerate(streams[2].batches(plan())):
        assert len(asked) == min(number + 4, 10)  # three are being read meanwhile
    assert not list(streams[2].batches([]))


def test_leaving_off_early(source: Source, streams: dict[int, Stream]) -> None:
    """What the processes still had to do is skipped and not taken for what comes next."""
    stream, before = streams[2], pids(streams[2])
    for _ in range(3):
        given = stream.batches([[11] * 6] * 100)
        next(given)
        with pytest.raises(RuntimeError, match="last batches were not finished"):
            next(stream.batches(PLAN))
        given.close()
        first = next(iter(stream.batches(PLAN)))
        np.testing.assert_array_equal(first[1].numpy(), SMALL.fit(source.read(3)))
    assert pids(stream) == before and all(map(is_alive, before))


def test_a_run_that_is_not_wanted_is_not_read(source: Source) -> None:
    class Run:
        value = 1

    share = Share(run=2, slot=0, number=0, rows=(0,), positions=range(1), crop=None, seed=0)
    assert read_share(share, torch.empty(1, 3, 12, 16), pytest.fail, SMALL, Run()) == []


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": 0}, {"ahead": 0}])
def test_wrong_numbers(source: Source, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}=0.* at least 1"):
        Stream(source, SMALL, **{"batch_size": 1, **wrong})


# --- what goes wrong ------------------------------------------------------------------------------


def test_an_image_that_vanishes_is_named(tmp_path: Path) -> None:
    """In its place, after the batches before it; and then no process is left."""
    source = open_source(write_images(tmp_path))
    (tmp_path / "b" / "08.jpg").unlink()
    with Stream(source, SMALL, batch_size=4, workers=1) as stream:
        processes = pids(stream)
        given = stream.batches([[0, 1], [2, 8, 3]])
        assert len(next(given)) == 2
        with pytest.raises(DataError, match=r"'b/08\.jpg' is no longer readable: .*check its name"):
            next(given)
        assert not any(map(is_alive, processes))
        with pytest.raises(RuntimeError, match="is closed"):
            next(stream.batches(PLAN))


def test_other_errors_come_through(source: Source) -> None:
    """A batch too large, which closes the stream; a row that there is not, with where it failed."""
    with Stream(source, SMALL, batch_size=2, workers=1) as stream:
        with pytest.raises(ConfigError, match="batch 7 has 3 images, more than batch_size=2"):
            list(stream.batches([[0, 1, 2]], first=7))
        assert not any(map(is_alive, pids(stream)))

    class Run:
        value = 1

    share = Share(run=1, slot=0, number=0, rows=(0, 99), positions=range(2), crop=None, seed=0)
    error = read_share(share, torch.empty(2, 3, 12, 16, dtype=torch.uint8), source.read, SMALL, Run)
    assert isinstance(error, IndexError) and "sources.py" in error.__notes__[0]


def test_a_process_that_is_killed(source: Source) -> None:
    with Stream(source, SMALL, batch_size=4, workers=1) as stream:
        processes = pids(stream)
        given = stream.batches([[0, 1, 2, 3]] * 1000)
        next(given)
        os.kill(processes[0], signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(DataError, match=r"was killed by signal 9.*lower data\.workers"):
            list(given)
        assert time.monotonic() - started < 10
        assert not any(map(is_alive, processes))


SCRIPT = """
import sys, time
from vitkit.data.sources import open_source
from vitkit.data.stream import Stream
from vitkit.data.transforms import Preprocess

print("script", flush=True)  # without a guard: processes must not run it again
stream = Stream(open_source(sys.argv[1]), Preprocess(image_size=(12, 16)), batch_size=4, workers=1)
with stream:
    for number, batch in enumerate(stream.batches([[0, 1, 2, 3]] * 10**6)):
        if number == 2:
            print(*[process.pid for process, _ in stream._workers], flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_a_script(source: Source, number: int, tmp_path: Path) -> None:
    """Interrupted by Ctrl-C, which all processes get, or killed: none is left and none speaks."""
    (tmp_path / "script.py").write_text(SCRIPT)
    script = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", source.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert script.stdout is not None
    assert script.stdout.readline() == "script\n"
    processes = list(map(int, script.stdout.readline().split()))
    assert len(processes) == 1
    os.kill(processes[0], signal.SIGINT)  # not heard
    time.sleep(0.5)
    assert script.poll() is None
    send = os.killpg if number == signal.SIGINT else os.kill
    send(script.pid, number)
    output, errors = script.communicate(timeout=30)
    wait_until_gone(processes)
    assert output == ""
    assert errors.count("Traceback") == (number == signal.SIGINT)
    assert script.returncode == -number
