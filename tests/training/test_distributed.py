"""Many processes do one run, and come to what one comes to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit.errors import ConfigError
from vitkit.training.checkpoint import LAST, STATE
from vitkit.training.directory import METRICS, to_resume
from vitkit.training.distributed import SOLO, Group, check_device, here, joined
from vitkit.training.sampling import Examples

SCRIPT = Path(__file__).with_name("ranks.py")
COUNTS = {"train": (107, 107, 106), "val": (23, 23, 23), "test": (3, 2, 2)}
EPOCHS, STEPS = 4, 5
SETTINGS: dict[str, Any] = {
    "recipe": "none",
    "model.name": "vit_tiny_patch16_224",
    "model.patch_size": 4,
    "model.dim": 32,
    "model.depth": 2,
    "model.num_heads": 1,
    "data.image_size": 8,
    "augment.mirror": False,
    "augment.shift": 0,
    "epochs": EPOCHS,
    "batch_size": 64,
    "warmup_epochs": 1,
    "ema": 0.9,
    "precision": "fp32",
    "device": "cpu",
    "threads": 1,
}
UNEVEN = {"batch_size": 59}  # 6 steps of 53 and 54 images
FSDP = {"parallel": "fsdp"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of three colours, in splits of its own."""
    folder, noise = tmp_path_factory.mktemp("data") / "images", np.random.default_rng(0)
    for split, counts in COUNTS.items():
        for channel, (name, count) in enumerate(zip(("blue", "green", "red"), counts, strict=True)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 120, (8, 8, 3), dtype=np.uint8)
                pixels[..., 2 - channel] += 60
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def command(ranks: int, *arguments: object, **options: int) -> list[str]:
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return [sys.executable, "-W", "ignore", "-m", *launcher, *flags, *map(str, arguments)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def work(folder: Path, ranks: int, images: Path, jobs: dict[str, dict[str, Any]]) -> Path:
    """Do jobs by name, each with its changes to the settings; the folder with what they leave."""
    folder.mkdir()
    listed = []
    for name, job in jobs.items():
        settings = job.get("settings", {})
        settings = settings if "copy" in job else {**SETTINGS, **settings}
        copied = {"copy": str(job["copy"])} if "copy" in job else {}
        given = {"data": str(images), "out": str(folder / name), "settings": settings}
        listed.append({**job, **given, **copied})
    (folder / "jobs").write_text(json.dumps(listed))
    many = command(ranks, SCRIPT, folder / "jobs")
    alone = [sys.executable, str(SCRIPT), str(folder / "jobs")]
    done = subprocess.run(
        many if ranks > 1 else alone, capture_output=True, text=True, timeout=900, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(folder: Path, images: Path) -> Path:
    jobs: dict[str, dict[str, Any]] = {
        "even": {},
        "uneven": {"settings": {**UNEVEN, "accumulate": 2}},
        "half": {"stop": 7},
        "fsdp": {"settings": FSDP},
        "fsdp half": {"settings": FSDP, "stop": 7},
        "half, then fsdp": {"copy": folder / "two" / "half", "settings": FSDP},
    }
    return work(folder / "two", 2, images, jobs)


@pytest.fixture(scope="module")
def one(folder: Path, images: Path, two: Path) -> Path:
    jobs: dict[str, dict[str, Any]] = {
        "even": {},
        "uneven": {"settings": UNEVEN},
        "half": {"copy": two / "half"},
        "fsdp half": {"copy": two / "fsdp half"},
    }
    return work(folder / "one", 1, images, jobs)


@pytest.fixture(scope="module")
def four(folder: Path, images: Path, two: Path) -> Path:
    jobs: dict[str, dict[str, Any]] = {
        "even": {},
        "uneven": {"settings": {**UNEVEN, "accumulate": 2}},
        "half": {"copy": two / "half"},
        "fsdp half": {"copy": two / "fsdp half"},
    }
    return work(folder / "four", 4, images, jobs)


def assert_same(run: Path, other: Path) -> None:
    """Both have ended with the same weights, average and figures, to 1e-5."""
    one, two = (torch.load(path / LAST / STATE, weights_only=True) for path in (run, other))
    assert one["position"]["step"] == two["position"]["step"] >= EPOCHS * STEPS
    for part in ("model", "average"):
        assert list(one[part]) == list(two[part])
        for name, tensor in one[part].items():
            torch.testing.assert_close(tensor, two[part][name], rtol=0, atol=1e-5)
    ours, theirs = (
        [json.loads(line) for line in (path / METRICS).read_text().splitlines()]
        for path in (run, other)
    )
    assert len(ours) == len(theirs) == EPOCHS
    for row, its in zip(ours, theirs, strict=True):
        for name in ("train_loss", "train_top1", "val_loss", "val_top1"):
            assert row[name] == pytest.approx(its[name], abs=1e-5), name


def left_by(run: Path, ranks: int) -> list[dict[str, Any]]:
    return [torch.load(run.with_name(f"{run.name}.{r}.pt")) for r in range(ranks)]


@pytest.mark.parametrize("name", ["even", "uneven"])
def test_two_ranks_learn_what_one_learns(one: Path, two: Path, name: str) -> None:
    assert_same(one / name, two / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["even", "uneven"])
def test_four_ranks_learn_what_one_learns(one: Path, four: Path, name: str) -> None:
    assert_same(one / name, four / name)


def test_shards_of_a_model_learn_what_the_whole_learns(one: Path, two: Path) -> None:
    assert_same(one / "even", two / "fsdp")


@pytest.mark.parametrize("name", ["half", "fsdp half"])
def test_one_rank_goes_on_with_what_two_began(one: Path, name: str) -> None:
    assert_same(one / "even", one / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["half", "fsdp half"])
def test_four_ranks_go_on_with_what_two_began(one: Path, four: Path, name: str) -> None:
    assert_same(one / "even", four / name)


def test_shards_go_on_with_what_copies_began(one: Path, two: Path) -> None:
    assert_same(one / "even", two / "half, then fsdp")


@pytest.mark.parametrize(
    ("ranks", "name"),
    [(2, "even"), (2, "uneven"), pytest.param(4, "uneven", marks=pytest.mark.slow)],
)
def test_ranks_share_the_batches_of_one(
    one: Path, request: pytest.FixtureRequest, ranks: int, name: str
) -> None:
    """Each sample comes once in an epoch, in the step where it comes to a single rank."""
    many = request.getfixturevalue({2: "two", 4: "four"}[ranks])
    (whole,) = (left["seen"] for left in left_by(one / name, 1))
    shares = [left["seen"] for left in left_by(many / name, ranks)]
    assert all(len(seen) == len(whole) for seen in shares)
    for step, batch in enumerate(whole):
        parts = [seen[step] for seen in shares]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert [sample for part in parts for sample in part] == batch
    steps = len(whole) // EPOCHS
    for epoch in range(EPOCHS):
        shown = Counter(s for batch in whole[epoch * steps : (epoch + 1) * steps] for s in batch)
        assert len(shown) == sum(COUNTS["train"]) and set(shown.values()) == {1}


@pytest.mark.parametrize(
    ("ranks", "name"),
    [(2, "even"), (2, "fsdp"), pytest.param(4, "even", marks=pytest.mark.slow)],
)
def test_all_ranks_know_the_answers_to_a_set_that_does_not_divide(
    one: Path, request: pytest.FixtureRequest, ranks: int, name: str
) -> None:
    many = request.getfixturevalue({2: "two", 4: "four"}[ranks])
    (alone,) = (left["answers"] for left in left_by(one / "even", 1))
    assert len(alone) == sum(COUNTS["test"])
    for left in left_by(many / name, ranks):
        torch.testing.assert_close(left["answers"], alone, rtol=0, atol=1e-5)
    scores = [
        json.loads((run / "evaluation.json").read_text()) for run in (one / "even", many / name)
    ]
    assert scores[0]["confusion"] == scores[1]["confusion"]
    assert scores[0]["images"] == scores[1]["images"] == 7


@pytest.mark.parametrize(("images", "ranks"), [(7, 2), (7, 4), (130, 2), (200, 3), (1000, 4)])
def test_parts_to_be_scored_are_those_of_one_in_order(images: int, ranks: int) -> None:
    pixels = torch.arange(images, dtype=torch.uint8).view(-1, 1, 1, 1)
    labels, rows = torch.arange(images), torch.randperm(images)
    alone = [batch[1].tolist() for batch in Examples(pixels, labels, rows).once()]
    shares = [Examples(pixels, labels, rows, rank, ranks).once() for rank in range(ranks)]
    assert [batch[1].tolist() for share in shares for batch in share] == alone


def test_one_process_is_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with joined() as group:
        assert group == SOLO and group.first
        tensor = torch.tensor([1.0, 2.0])
        assert group.sum(tensor) is tensor and group.cat(tensor) is tensor
        assert group.each("x") == ["x"] and group.of_first("x") == "x"
    variables = {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    assert here() == Group(3, 4, 1, 2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert here() == SOLO


def test_a_device_is_for_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(1, 2, 1, 2)
    check_device(torch.device("cuda:1"), SOLO)
    check_device(torch.device("cpu"), group)
    with pytest.raises(ConfigError, match="device=cuda:1 is one device for 2 ranks"):
        check_device(torch.device("cuda:1"), group)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 ranks share this machine's 1 .* --nproc-per-node 1"):
        check_device(torch.device("cuda"), group)


def test_a_restart_needs_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not to_resume(None, False, SOLO) and to_resume(tmp_path, True, SOLO)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    with pytest.raises(ConfigError, match="--max-restarts needs --out"):
        to_resume(None, False, SOLO)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not to_resume(tmp_path, False, SOLO)
    (tmp_path / "config.yaml").touch()
    assert to_resume(tmp_path, False, SOLO)


class Running:
    """`torchrun -m vitkit train` on two ranks, begun."""

    def __init__(self, images: Path, out: Path, epochs: int, **options: int) -> None:
        settings = [f"{key}={value}" for key, value in {**SETTINGS, "epochs": epochs}.items()]
        arguments = ("-m", "vitkit", "train", images, "--out", out, *settings)
        self.out = out
        self.process = subprocess.Popen(
            command(2, *arguments, **options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def wait_for_rows(self, count: int) -> None:
        end = time.monotonic() + 120
        while not self.rows() >= count:
            assert self.process.poll() is None and time.monotonic() < end, self.end()
            time.sleep(0.05)

    def rows(self) -> int:
        path = self.out / METRICS
        return len(path.read_text().splitlines()) if path.is_file() else 0

    def rank(self, number: int) -> int:
        """The process of a rank."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                variables = path.with_name("environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if parent == self.process.pid and b"RANK=%d" % number in variables:
                return int(path.parent.name)
        raise AssertionError(f"no rank {number}")

    def end(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=120)
        return self.process.returncode, out, error


@pytest.mark.parametrize("dying", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_that_is_killed_ends_the_run(images: Path, tmp_path: Path, dying: int) -> None:
    run = Running(images, tmp_path / "run", epochs=100_000)
    run.wait_for_rows(2)
    os.kill(run.rank(dying), signal.SIGKILL)
    killed = time.monotonic()
    status, _, error = run.end()
    assert status != 0
    assert time.monotonic() - killed < 45  # of which torchrun waits for 30 at most
    assert f"local_rank: {dying}" in error and "exitcode: -9" in error
    assert f"vitkit: rank {1 - dying}: another rank has ended" in error
    assert 'File "' not in error.partition("another rank has ended")[0]  # no traceback of ours


def test_torchrun_saves_what_it_ends(images: Path, tmp_path: Path) -> None:
    run = Running(images, tmp_path / "run", epochs=100_000, max_restarts=0)
    run.wait_for_rows(2)
    run.process.send_signal(signal.SIGTERM)
    status, _, error = run.end()
    assert status != 0
    assert error.count("interrupted and saved; to go on:") == 1
    state = torch.load(run.out / LAST / STATE, weights_only=True)
    assert state["position"]["step"] >= STEPS * run.rows()


@pytest.mark.slow
def test_torchrun_starts_again_and_the_run_goes_on(images: Path, tmp_path: Path) -> None:
    run = Running(images, tmp_path / "run", epochs=60, max_restarts=1)
    run.wait_for_rows(2)
    os.kill(run.rank(1), signal.SIGKILL)
    status, out, error = run.end()
    assert status == 0, error
    assert "7 images" in out
    rows = [json.loads(line)["epoch"] for line in (run.out / METRICS).read_text().splitlines()]
    assert rows == list(range(1, 61))


def test_what_cannot_work_is_said_by_the_rank(images: Path, tmp_path: Path) -> None:
    arguments = ("train", images, "--out", tmp_path / "run", "batch_size=1", "device=cpu")
    done = subprocess.run(
        command(2, "-m", "vitkit", *arguments), capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode != 0
    assert "batches of 1 images are too small for 2 ranks; raise batch_size" in done.stderr
    assert "vitkit: rank 0: " in done.stderr or "vitkit: rank 1: " in done.stderr
    assert not (tmp_path / "run").exists()
