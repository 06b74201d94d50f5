"""Fixtures that every test can ask for."""

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import coloured
import vitkit

# Before torch starts: on models this small, threads would mostly wait for each other, and for
# minutes where another program keeps a core busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Weights that someone has on this machine are not for tests to find.
os.environ["HF_HOME"] = os.path.join(tempfile.gettempdir(), "vitkit-tests-without-hub")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test images, which is not part of the project."""
    folder = Path(os.environ.get("VITKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test images at {folder}; set VITKIT_TEST_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def unpacked(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`unpacked("flowers.zip")` is a folder with what that archive holds, unpacked once."""
    folders: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(Path(name).stem)
            with zipfile.ZipFile(shared_data / name) as archive:
                archive.extractall(folders[name])
        return folders[name]

    return unpack


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three classes of twenty small images, which their colours tell apart."""
    return coloured.draw(tmp_path_factory.mktemp("data") / "colours", 20, (12, 10))


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Settings of a run that takes a moment."""
    return {
        "recipe": "none",
        "model.name": "vit_tiny_patch16_224",
        "model.patch_size": 4,
        "model.dim": 16,
        "model.depth": 1,
        "model.num_heads": 2,
        "data.image_size": 8,
        "epochs": 4,
        "batch_size": 16,
        "lr": 1e-2,
        "ema": 0.9,
        "warmup_epochs": 1,
        "precision": "fp32",
        "device": "cpu",
    }


@pytest.fixture(scope="session")
def finished(
    colours: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> "vitkit.Run":
    """A finished run on `colours`; not to be changed."""
    return vitkit.train(colours, out=tmp_path_factory.mktemp("runs") / "finished", **tiny)
