"""A set of shards that several tests read."""

from pathlib import Path

import pytest

from vitkit.data.shards.write import pack
from vitkit.data.sources import open_source


@pytest.fixture(scope="session")
def colour_shards(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sixty images of `colours` in shards of about a dozen."""
    folder = tmp_path_factory.mktemp("shards") / "colours"
    pack(open_source(colours), folder, shard_bytes=20_000)
    return folder
