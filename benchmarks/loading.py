"""Images per second of vitkit's reading processes and of timm's loader, of the same work.

Both read the same JPEG files of 500x375 pixels, cut out a random part, bring it to 224 pixels a
side, mirror half of the images and normalise: float32 batches in memory. timm takes turns without
and with its prefetcher, which normalises whole batches as vitkit does. On a GPU that is done there,
so both are also compared up to the mirrored uint8 batch. First the same box of the same file must
give the same input, to two levels of 255.

Other work on the machine disturbs images per second more than the processor time of an image, that
of all processes together, whose ratio is the same where nothing else runs and all cores are busy.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import timm
import torch
from benchmarks.record import keep, parser
from PIL import Image
from timm.data import create_dataset, create_loader
from torch import Tensor

from vitkit.data.augment.geometry import random_mirror
from vitkit.data.crop import RandomCrop, resize
from vitkit.data.sources import Source, open_source
from vitkit.data.stream import Stream
from vitkit.data.transforms import Preprocess
from vitkit.data.view import View

WIDTH, HEIGHT, QUALITY, SIDE, BATCH = 500, 375, 90, 224, 64
CROP = RandomCrop(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
PREPROCESS = Preprocess(image_size=(SIDE, SIDE), interpolation="bicubic")
WARM = 1  # turns that are not counted
PAIRS = {"timm": "vitkit", "timm_prefetcher": "vitkit", "timm_uint8": "vitkit_uint8"}

Epoch = Callable[[], Iterator[Tensor]]


def write_images(folder: Path, count: int) -> None:
    """JPEGs like photographs: noise of three low frequencies, and a grain."""
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = 120 + random.normal(0, 6, (HEIGHT, WIDTH, 1))
        for cells, strength in ((6, 60), (24, 30), (96, 14)):
            noise = random.normal(0, 1, (3, cells, cells)).astype(np.float32)
            planes = [
                np.asarray(Image.fromarray(plane).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
                for plane in noise
            ]
            pixels = pixels + strength * np.stack(planes, axis=2)
        path = folder / "ab"[number % 2] / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)


def timm_loader(folder: Path, workers: int, *, prefetcher: bool) -> Any:
    return create_loader(
        create_dataset("", root=str(folder)),
        input_size=(3, SIDE, SIDE),
        batch_size=BATCH,
        is_training=True,
        scale=CROP.scale,
        ratio=CROP.ratio,
        color_jitter=None,
        interpolation=PREPROCESS.interpolation,
        mean=PREPROCESS.mean,
        std=PREPROCESS.std,
        num_workers=workers,
        device=torch.device("cpu"),
        use_prefetcher=prefetcher,
    )


def check_equal(folder: Path, source: Source) -> None:
    """Fix box and mirroring of both; the inputs must agree."""
    box = View(31, 20, 300, 410, (SIDE, SIDE))
    part = source.read(7, lambda height, width: box)
    ours = PREPROCESS.normalise(resize(part, (SIDE, SIDE), PREPROCESS.interpolation)[None])[0]
    loader = timm_loader(folder, 0, prefetcher=False)
    crop, flip, *_ = loader.dataset.transform.transforms
    crop.get_params = lambda *_: (box.top, box.left, box.height, box.width)
    flip.p = 0.0
    theirs, _ = loader.dataset[7]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4.01 / 255)  # std is 0.5


def our_epochs(stream: Stream, images: int, *, normalise: bool) -> Epoch:
    def epoch() -> Iterator[Tensor]:
        plan = torch.randperm(images).split(BATCH)[: images // BATCH]
        for batch in stream.batches(plan, crop=CROP, seed=int(torch.randint(2**31, ()))):
            mirrored = random_mirror(batch)
            yield PREPROCESS.normalise(mirrored) if normalise else mirrored

    return epoch


def timm_epochs(loader: Any) -> Epoch:
    return lambda: (images for images, _ in loader)


def processor_seconds() -> float:
    """Of this process and its children, so far."""
    seconds = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def take_turns(contestants: dict[str, Epoch], turns: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and processor seconds per image of each turn, an epoch of each contestant."""
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(WARM + turns):
        for name, epoch in contestants.items():
            started, used = time.perf_counter(), processor_seconds()
            images = sum(len(batch) for batch in epoch())
            seconds, used = time.perf_counter() - started, processor_seconds() - used
            costs[name].append((seconds / images, used / images))
    return {name: values[WARM:] for name, values in costs.items()}


def compare(folder: Path, images: int, workers: int, turns: int) -> dict[str, Any]:
    """Run all and describe what came out."""
    source = open_source(folder)
    check_equal(folder, source)
    prefetcher = timm_loader(folder, workers, prefetcher=True)
    with Stream(source, PREPROCESS, batch_size=BATCH, workers=workers) as stream:
        costs = take_turns(
            {
                "timm": timm_epochs(timm_loader(folder, workers, prefetcher=False)),
                "timm_prefetcher": timm_epochs(prefetcher),
                "timm_uint8": timm_epochs(prefetcher.loader),
                "vitkit": our_epochs(stream, images, normalise=True),
                "vitkit_uint8": our_epochs(stream, images, normalise=False),
            },
            turns,
        )
    medians = {
        name: tuple(map(statistics.median, zip(*values, strict=True)))
        for name, values in costs.items()
    }
    result: dict[str, Any] = {
        "images_per_second": {name: round(1 / seconds) for name, (seconds, _) in medians.items()},
        "processor_ms_per_image": {name: round(1e3 * u, 2) for name, (_, u) in medians.items()},
    }
    for theirs, ours in PAIRS.items():
        pairs = list(zip(costs[theirs], costs[ours], strict=True))
        for at, what in enumerate(("ratio", "processor_ratio")):
            ratios = [their[at] / our[at] for their, our in pairs]
            low, middle, high = (round(value, 2) for value in statistics.quantiles(ratios, n=4))
            result[f"{what}_to_{theirs}"] = middle
            result[f"{what}_to_{theirs}_quartiles"] = [low, high]
    return result


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=1000)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--turns", type=int, default=15)
    options.set_defaults(threads=1)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), arguments.images)
        result = compare(Path(folder), arguments.images, arguments.workers, arguments.turns)
    result |= {
        "images": arguments.images,
        "pixels": f"{WIDTH}x{HEIGHT} to {SIDE}x{SIDE}",
        "interpolation": PREPROCESS.interpolation,
        "batch_size": BATCH,
        "dtype": "float32",
        "workers": arguments.workers,
        "timm": timm.__version__,
        "pillow": PIL.__version__,
    }
    keep(result, arguments)


if __name__ == "__main__":
    main()
