"""A study that takes a moment, and one that is finished."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitkit.study.conditions import Conditions
from vitkit.study.design import Arm, Study
from vitkit.study.outcome import better
from vitkit.study.record import Record
from vitkit.study.results import Measured, Result
from vitkit.study.run import run_study


@pytest.fixture(scope="session")
def small(tiny: dict[str, Any]) -> Study:
    """Two tiny ViTs, one of which is taught by a tiny CNN."""
    return Study(
        name="small",
        question="Which?",
        claim="The mean is better.",
        source="nowhere",
        common=tiny,
        teacher=Arm(
            name="teacher",
            title="the CNN",
            settings={
                "recipe": "cnn",
                "model.name": "convnet_3_32",
                "model.dims": [4],
                "data.image_size": 8,
                "device": "cpu",
            },
        ),
        arms=(
            Arm(name="alone", title="alone", settings={"model.pool": "cls"}),
            Arm(name="taught", title="taught", settings={"model.pool": "mean"}, taught=True),
        ),
        outcome=lambda results: better(
            results, ("taught", "Taught, it names"), ("alone", "alone"), gap_is="points gained"
        ),
    )


@pytest.fixture(scope="session")
def done(small: Study, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """That study on `colours`, finished; not to be changed."""
    directory = tmp_path_factory.mktemp("study") / "small"
    return run_study(small, Conditions(data=str(colours), epochs=2), directory)


@pytest.fixture(scope="session")
def result() -> Callable[..., Result]:
    """`result(0.5, 0.6, images=1000)` is an arm that reached these scores, seed by seed."""

    def make(*scores: float, images: int = 1000, macs: int = 20) -> Result:
        row = {
            "epoch": 1,
            "step": 8,
            "seconds": 60.0,
            "images_per_second": 100.0,
            "train_loss": 1.0,
            "val_top1": 0.5,
        }
        return Result(
            tuple(
                Measured(seed, Path(f"run-seed-{seed}"), top1, images, "test", (row,), 10, macs, 30)
                for seed, top1 in enumerate(scores)
            )
        )

    return make
