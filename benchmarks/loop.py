"""Whether data ever holds training up: whole steps against steps on one batch that is ready.

    python -m benchmarks.loop --threads 2 --out benchmarks/results/loop-cpu.json

Both sides run the default recipe's forward, backward, optimiser and weight average on CIFAR-10 in
memory, and take turns. One side gathers each batch, changes it at random and normalises it first;
the other gets the same normalised batch over and over. A share of 1 would be data for nothing.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.record import keep, parser

from vitkit.progress import silent
from vitkit.training import step as steps
from vitkit.training.dataset import read_dataset
from vitkit.training.plan import plan
from vitkit.training.prepare import make_learner, prepare
from vitkit.training.sampling import batches
from vitkit.training.schedule import Pace
from vitkit.training.step import train_step

TURN, TURNS, WARM = 10, 15, 3  # steps of a turn, turns, and those that are not counted


def timed(turn: Callable[[], None]) -> float:
    started = time.perf_counter()
    turn()
    return time.perf_counter() - started


def compare(data: str, overrides: list[str]) -> dict[str, Any]:
    """The share of its speed that the loop keeps."""
    resolved = plan(data, overrides)
    prepared = prepare(data, resolved)
    dataset = read_dataset(prepared.source, prepared.preprocess, resolved.settings, listen=silent)
    train = dataset.examples["train"]
    whole, fixed = make_learner(prepared), make_learner(prepared)
    rows = batches(train, resolved.settings, epoch=0)
    pace = Pace(1, 10_000)
    images, labels = next(iter(train.read(rows[:1])))
    ready = steps.model_input(fixed, images, labels, pace)

    def whole_turn() -> None:
        for taken, truths in train.read(rows[:TURN]):
            train_step(whole, taken, truths, pace)

    def fixed_turn() -> None:
        given = steps.model_input
        steps.model_input = lambda *_: ready
        try:
            for _ in range(TURN):
                train_step(fixed, images, labels, pace)
        finally:
            steps.model_input = given

    shares = [timed(fixed_turn) / timed(whole_turn) for _ in range(TURNS)][WARM:]
    quarters = statistics.quantiles(shares, n=4)
    return {
        "share": round(statistics.median(shares), 3),
        "share_quartiles": [round(quarters[0], 3), round(quarters[2], 3)],
        "model": resolved.settings.architecture,
        "recipe": resolved.settings.recipe,
        "batch_size": resolved.settings.batch_size,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options.add_argument("--data", default="../shared/data/cifar10-jpeg.zip")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    result = compare(arguments.data, arguments.settings)
    keep(result, arguments)


if __name__ == "__main__":
    main()
