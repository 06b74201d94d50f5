"""Fixtures that every test can ask for."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test images, which is not part of the project."""
    folder = Path(os.environ.get("VITKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test images at {folder}; set VITKIT_TEST_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def unpacked(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`unpacked("flowers.zip")` is a folder with what that archive holds, unpacked once."""
    folders: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(Path(name).stem)
            with zipfile.ZipFile(shared_data / name) as archive:
                archive.extractall(folders[name])
        return folders[name]

    return unpack
