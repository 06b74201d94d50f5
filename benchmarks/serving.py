"""Images per second over HTTP against the same model offline, and what too many requests do.

    python -m benchmarks.serving --out benchmarks/results/serving-cpu.json

The server is `vitkit serve` in a process of its own, with its usual limits; its clients are in
another one. Offline is `Classifier.stream`, as `vitkit predict` uses it. Both decode the same JPEG
files of 500x375 pixels in as many threads and run the same model, with random weights and ten
classes, in batches of 32. First every answer over HTTP must be the one offline; then both take
turns. What the clients take counts against the server: they share its cores. `model_busy` is the
share of the time over HTTP in which the model ran.

Then requests come at ten times that speed for a minute, on a clock that does not wait for answers.
Meanwhile a third process asks twenty times a second whether the server lives, and its memory is
looked at: settled is the median of the second sixth of the time, late that of the last. The clients
hang up at the end, and requests come one by one until one is answered in at most twice the time
that it takes where there is no other. The same again for shorter with clients that stay until all
is answered.
"""

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmarks import clients
from benchmarks.clients import Load, Place, Plan
from benchmarks.loading import HEIGHT, WIDTH, write_images
from benchmarks.record import keep, parser
from torch import nn

import vitkit
from vitkit.classifier import Classifier
from vitkit.data.sources import Source, open_source
from vitkit.data.stream import apart
from vitkit.data.transforms import Preprocess
from vitkit.serve.settings import Limits

CLASSES, BATCH = 10, Limits().batch_size
ROUTE = f"/predict?topk={CLASSES}"
SIDES = ("offline", "served")
WARM = 1  # rounds that are not counted
EVERY = 0.05  # seconds between questions for health
CALM = 5  # seconds after which memory is looked at a last time
EXPECTED = {200, 429, 504}  # statuses under overload
GOALS = {  # what each figure should be
    "ratio": ("at least", 0.85),
    "other_statuses": ("at most", 0),
    "memory_growth": ("at most", 0.1),
    "health_ms_p99": ("at most", 100),
    "health_ms_max": ("at most", 100),
    "recovery_seconds": ("at most", 2),
}


class Serving(NamedTuple):
    """A server that runs."""

    place: Place
    pid: int

    def memory(self) -> float:
        """MB that it has in memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None  # else it has ended
        return int(found[1]) / 1e3

    def processor(self) -> float:
        """Seconds of processor time that it has taken."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def batches(self) -> tuple[int, float, float]:
        """How many batches it has run so far, of how many images, in how many seconds."""
        host, port = self.place
        with urllib.request.urlopen(f"http://{host}:{port}/metrics") as answer:
            text = answer.read().decode()
        count, images, seconds = (
            float(text.partition(f"\nvitkit_batch_{name} ")[2].split()[0])
            for name in ("size_count", "size_sum", "seconds_sum")
        )
        return int(count), images, seconds


@contextlib.contextmanager
def serving(checkpoint: Path, threads: int) -> Iterator[Serving]:
    """`vitkit serve` on a free port of this machine."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vitkit", "serve", str(checkpoint), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    try:
        assert process.stdout is not None
        host, port = process.stdout.readline().rpartition("//")[2].split(":")
        yield Serving((host, int(port)), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextlib.contextmanager
def other_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for clients, which have started and have no torch in them."""
    with ProcessPoolExecutor(count, get_context("spawn")) as pool:
        with apart():
            started = [pool.submit(time.sleep, 1) for _ in range(count)]
        for each in started:
            each.result()
        yield pool


def write_checkpoint(model: str, folder: Path) -> None:
    """A model whose answers differ from image to image."""
    made = vitkit.create_model(model, num_classes=CLASSES).eval()
    head = made.get_submodule("head")
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight)  # else all classes get the same share of every image
    names = [f"class {number}" for number in range(CLASSES)]
    preprocess = Preprocess(image_size=(224, 224))
    Classifier(made, preprocess, names, architecture=model).save(folder)


def check_equal(classifier: Classifier, source: Source, replies: Sequence[clients.Reply]) -> None:
    """Every share of every class over HTTP must be the one offline."""
    offline = np.stack([answer.values for answer in classifier.stream(source, batch_size=BATCH)])
    assert offline.std(axis=0).mean() > 0.01  # else equal answers would say nothing
    bodies = [json.loads(body) for _, body in replies]
    shares = [{each["label"]: each["score"] for each in body["topk"]} for body in bodies]
    served = np.array([[row[name] for name in classifier.classes] for row in shares])
    np.testing.assert_allclose(served, offline, rtol=0, atol=1e-5)


def throughput(
    pool: ProcessPoolExecutor,
    server: Serving,
    classifier: Classifier,
    source: Source,
    folder: Path,
    *,
    connections: int,
    rounds: int,
) -> dict[str, Any]:
    """Both sides in turn, all images each."""

    def ask(at_once: int) -> clients.Asked:
        asked = pool.submit(clients.ask_all, server.place, folder, ROUTE, at_once).result()
        others = [body for status, body in asked.replies if status != 200]
        assert not others, others[:3]
        return asked

    images = len(source.samples)
    check_equal(classifier, source, ask(connections).replies)
    offline, served, client = [], [], []  # seconds per image, and of processor time
    before = server.batches()
    for _ in range(WARM + rounds):
        begun, used = time.perf_counter(), time.process_time()
        answers = list(classifier.stream(source, batch_size=BATCH))
        seconds, used = time.perf_counter() - begun, time.process_time() - used
        offline.append((seconds / images, used / images))
        assert len(answers) == images
        used = server.processor()
        asked = ask(connections)
        served.append((asked.seconds / images, (server.processor() - used) / images))
        client.append(asked.processor / images)
    batches, of_images, busy = np.subtract(server.batches(), before)
    ratios = [a / b for (a, _), (b, _) in zip(offline[WARM:], served[WARM:], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    speeds, costs = zip(*(medians(side[WARM:]) for side in (offline, served)), strict=True)
    return {
        "images_per_second": {
            name: round(1 / seconds, 1) for name, seconds in zip(SIDES, speeds, strict=True)
        },
        "processor_ms_per_image": {
            name: round(1e3 * used, 1) for name, used in zip(SIDES, costs, strict=True)
        },
        "ratio": round(middle, 3),
        "ratio_quartiles": [round(low, 3), round(high, 3)],
        "images_per_batch": round(of_images / batches, 1),
        "model_busy": round(busy / sum(seconds * images for seconds, _ in served), 3),
        "client_ms_per_image": round(1e3 * statistics.median(client[WARM:]), 2),
        "alone_ms": round(1e3 * statistics.median(ask(1).each), 1),
    }


def medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of both numbers apart."""
    first, second = zip(*pairs, strict=True)
    return statistics.median(first), statistics.median(second)


def under_load(
    pool: ProcessPoolExecutor, server: Serving, folder: Path, plan: Plan
) -> dict[str, Any]:
    """Far more requests than can be answered: what came of them, of memory and of health."""
    before = server.memory()
    watching = pool.submit(clients.watch, server.place, plan.duration, EVERY)
    loading = pool.submit(clients.overload, server.place, folder, ROUTE, plan)
    memory = look(server, loading)
    load, health = loading.result(), watching.result()
    time.sleep(CALM)
    during = [(at - load.begun, size) for at, size in memory if load.begun <= at <= load.ended]
    sixth = plan.duration / 6
    settled = statistics.median(size for at, size in during if sixth <= at < 2 * sixth)
    late = statistics.median(size for at, size in during if at >= 5 * sixth)
    waits = [1e3 * seconds for at, seconds in health if load.begun <= at <= load.ended]
    return {
        "seconds": plan.duration,
        "clients_at_the_end": "stay for their answers" if plan.stay else "hang up",
        "requests_per_second": {
            "wanted": round(plan.rate, 1),
            "sent": round(load.sent / plan.duration, 1),
            "answered_200": round(load.statuses.get(200, 0) / plan.duration, 1),
        },
        **counts(load),
        "client_processor_share": round(load.processor / plan.duration, 3),
        "memory_mb": {
            "before": round(before),
            "settled": round(settled),
            "late": round(late),
            "most": round(max(size for _, size in during)),
            "after": round(server.memory()),
        },
        "memory_growth": round(late / settled - 1, 4),
        "health_asked": len(waits),
        "health_ms_median": round(statistics.median(waits), 1),
        "health_ms_p99": round(float(np.quantile(waits, 0.99)), 1),
        "health_ms_max": round(max(waits), 1),
        "usual_ms": round(1e3 * plan.usual, 1),
        "recovery_seconds": round(load.recovered, 2),
        "recovery_requests": load.tried,
    }


def look(server: Serving, loading: Future[Load]) -> list[tuple[float, float]]:
    """Memory of the server ten times a second, and when, until the load is over."""
    seen = []
    while not loading.done():
        seen.append((time.monotonic(), server.memory()))
        time.sleep(0.1)
    return seen


def counts(load: Load) -> dict[str, Any]:
    """What came of each request that was due."""
    return {
        "statuses": {str(status): count for status, count in load.statuses.items()},
        "other_statuses": load.failed
        + sum(count for status, count in load.statuses.items() if status not in EXPECTED),
        "failed": load.failed,
        "unanswered": load.unanswered,
        "held_back": load.held_back,
        "answer_ms": {
            str(status): {
                "median": round(1e3 * statistics.median(each), 1),
                "p99": round(1e3 * float(np.quantile(each, 0.99)), 1),
            }
            for status, each in load.answers.items()
        },
    }


def measure(
    pool: ProcessPoolExecutor, model: str, folder: Path, arguments: Any, *, flood: bool
) -> dict[str, Any]:
    """One model: its speed and, if wanted, what too many requests do."""
    with tempfile.TemporaryDirectory() as made:
        checkpoint = Path(made) / "model"
        write_checkpoint(model, checkpoint)
        classifier, source = vitkit.load(checkpoint), open_source(folder)
        with serving(checkpoint, arguments.threads) as server:
            result = throughput(
                *(pool, server, classifier, source, folder),
                connections=arguments.connections,
                rounds=arguments.rounds,
            )
            if flood and arguments.seconds:
                plan = Plan(
                    rate=arguments.times * result["images_per_second"]["served"],
                    duration=arguments.seconds,
                    most=arguments.most,
                    usual=2 * result["alone_ms"] / 1e3,
                )
                result["overload"] = under_load(pool, server, folder, plan)
                short = replace(plan, duration=arguments.seconds / 3, stay=True)
                result["overload_stay"] = under_load(pool, server, folder, short)
    return result


def tell(results: dict[str, dict[str, Any]]) -> None:
    """A table of the figures that there are goals for."""
    for model, result in results.items():
        for part, figures in (("", result), *((k, v) for k, v in result.items() if "over" in k)):
            for name, (side, goal) in GOALS.items():
                if name in figures:
                    value = figures[name]
                    kept = value >= goal if side == "at least" else value <= goal
                    print(
                        f"{model:24} {part:14} {name:18} {value:>8} {side} {goal:<6}"
                        f"{'kept' if kept else 'MISSED'}"
                    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--models",
        nargs="+",
        default=["vit_small_patch16_224", "vit_tiny_patch16_224"],
        help="too many requests come to the first",
    )
    options.add_argument("--images", type=int, default=256)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--connections", type=int, default=64)
    options.add_argument("--seconds", type=float, default=60, help="of overload; 0 for none")
    options.add_argument("--times", type=float, default=10, help="the speed, under overload")
    options.add_argument("--most", type=int, default=900, help="requests on their way at once")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name, other_processes(2) as pool:
        folder = Path(name)
        write_images(folder, arguments.images)
        results = {
            model: measure(pool, model, folder, arguments, flood=not number)
            for number, model in enumerate(arguments.models)
        }
    result: dict[str, Any] = {
        "models": results,
        "images": arguments.images,
        "pixels": f"{WIDTH}x{HEIGHT} to 224x224",
        "connections": arguments.connections,
        "rounds": arguments.rounds,
        "batch_size": BATCH,
        "dtype": "float32",
        "cores": len(os.sched_getaffinity(0)),
    }
    keep(result, arguments)
    tell(results)


if __name__ == "__main__":
    main()
