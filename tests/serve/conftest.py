"""A server over a small model, in this process."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import vitkit
from vitkit.serve.app import make_app

Upload = dict[str, tuple[str, bytes, str]]


@pytest.fixture(scope="module")
def classifier(finished: vitkit.Run) -> vitkit.Classifier:
    return finished.load()


@pytest.fixture
def client(classifier: vitkit.Classifier) -> Iterator[TestClient]:
    with TestClient(make_app(classifier, name="colours"), raise_server_exceptions=False) as made:
        yield made


def encoded(pixels: np.ndarray, form: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def upload() -> Callable[[bytes | Path], Upload]:
    """`upload(data)` is a form with that file as its image."""

    def make(data: bytes | Path) -> Upload:
        content = data.read_bytes() if isinstance(data, Path) else data
        return {"image": ("x.png", content, "image/png")}

    return make
