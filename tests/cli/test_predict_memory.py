"""`vitkit predict` over many files takes no more memory than over few."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vitkit.classifier import Classifier
from vitkit.data.transforms import Preprocess
from vitkit.models import create_model

# Linux's own peak of this process: ru_maxrss would begin with that of the process it comes from.
PREDICT = """
import sys
from vitkit.cli.main import main
try:
    main()
finally:
    lines = open("/proc/self/status").read().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), file=sys.stderr)
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained model whose input, 64 x 64 pixels, takes 12 kB."""
    name, sizes = "vit_tiny_patch16_224", {"image_size": (64, 64), "dim": 16, "depth": 1}
    model = create_model(name, num_classes=3, num_heads=2, **sizes)
    preprocess = Preprocess(image_size=(64, 64))
    Classifier(model, preprocess, "abc", architecture=name).save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def peak(checkpoint: Path, folder: Path, out: Path) -> int:
    """Bytes that predicting a folder takes at most."""
    arguments = ["predict", str(checkpoint), str(folder), "--out", str(out), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, *arguments], capture_output=True, text=True, check=True
    )
    return 1024 * int(done.stderr.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's own figures")
@pytest.mark.parametrize("suffix", [".csv", pytest.param(".parquet", marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_files(checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    """Kept, 4,500 model inputs would take 55 MB, the images 220 MB; their names take 2."""
    Image.new("RGB", (128, 128), "teal").save(tmp_path / "image.png")
    peaks = {}
    for count in (500, 5_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(tmp_path / "image.png", folder / f"{number:04}.png")
        peaks[count] = peak(checkpoint, folder, tmp_path / f"{count}{suffix}")
    assert peaks[5_000] - peaks[500] < 20_000_000, peaks
