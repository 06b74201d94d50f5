"""Files of tensors from anywhere: unwrapped, checked, and never run."""

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.weights import files, store

VIT = "vit_tiny_patch16_224"


def check_same(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Names, shapes, types and every bit agree."""
    assert set(given) == set(expected)
    for name, tensor in expected.items():
        assert given[name].dtype == tensor.dtype and torch.equal(given[name], tensor), name


WRAPPED: list[tuple[str, Callable[[dict[str, Tensor]], Any]]] = [
    ("bare", lambda state: state),
    ("model", lambda state: {"model": state, "epoch": 3}),
    ("state_dict", lambda state: {"state_dict": state, "optimizer": {}, "metric": 0.5}),
    ("model_ema", lambda state: {"model_ema": state, "model": {"wrong": torch.ones(1)}}),
    ("state_dict_ema", lambda state: {"state_dict_ema": state, "state_dict": {}}),
    ("module", lambda state: {f"module.{name}": value for name, value in state.items()}),
    ("compiled", lambda state: {f"_orig_mod.{name}": value for name, value in state.items()}),
    (
        "compiled around parallel",
        lambda state: {"model": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
    ),
    (
        "parallel around compiled",
        lambda state: {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    ),
]


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [wrap for _, wrap in WRAPPED], ids=[name for name, _ in WRAPPED])
def test_pytorch_files(
    tmp_path: Path, suffix: str, legacy: bool, wrap: Callable[[dict[str, Tensor]], Any]
) -> None:
    state = {"norm.weight": torch.rand(4), "head.weight": torch.rand(3, 4, dtype=torch.float64).T}
    path = tmp_path / f"weights{suffix}"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not legacy)
    check_same(files.read_tensors(path), state)


def test_safetensors_with_prefixes(tmp_path: Path) -> None:
    save_file({"_orig_mod.a": torch.arange(3), "b": torch.ones(2)}, tmp_path / "w.safetensors")
    expected = {"a": torch.arange(3), "b": torch.ones(2)}
    check_same(files.read_tensors(tmp_path / "w.safetensors"), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.ones(1), "step": 3}, "holds 'step', which is no tensor"),
        ({3: torch.ones(1)}, "holds 3, which is no tensor"),
        ([torch.ones(1)], "holds a list, not named tensors"),
        ({"model": {}}, "holds a dict, not named tensors"),
        (torch.ones(1), "holds a Tensor, not named tensors"),
    ],
)
def test_no_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"x\.pth {message}"):
        files.read_tensors(tmp_path / "x.pth")


def leave_a_mark(path: str) -> None:
    """What a hostile file would run."""
    Path(path).touch()


class Hostile:
    """Runs `call` when it is unpickled."""

    def __init__(self, call: Callable[[str], object], argument: str) -> None:
        self.call, self.argument = call, argument

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return self.call, (self.argument,)


def write_hostile(path: Path, way: str, bomb: Hostile) -> None:
    content = {"model": {"head.bias": torch.ones(3)}, "args": bomb}
    if way == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("way", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("call", ["system", "function", "eval"])
def test_nothing_is_run(tmp_path: Path, suffix: str, way: str, call: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"x{suffix}"
    bomb = {
        "system": Hostile(os.system, f"touch '{marker}'"),
        "function": Hostile(leave_a_mark, str(marker)),
        "eval": Hostile(eval, f"__import__('pathlib').Path({str(marker)!r}).touch()"),
    }[call]
    write_hostile(path, way, bomb)
    if way == "plain pickle":  # the bomb is live
        pickle.loads(path.read_bytes())
        marker.unlink()
    for load in (lambda: files.read_tensors(path), lambda: store.load(path, model=VIT)):
        with pytest.raises(WeightsError, match="could run code"):
            load()
    assert not marker.exists()


def test_pickles_under_another_suffix_are_not_read(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for name in ("x.pkl", "x.npz", "x", "x.safetensors"):
        write_hostile(tmp_path / name, "zip", Hostile(leave_a_mark, str(marker)))
        with pytest.raises(WeightsError, match="is of no known kind|no whole safetensors file"):
            files.read_tensors(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_pytorch_files(tmp_path: Path, legacy: bool) -> None:
    """Cut anywhere, or with bytes changed: a WeightsError, or tensors, and never anything else."""
    path = tmp_path / "x.pth"
    state = {"a.weight": torch.randn(3, 4), "b": torch.arange(5)}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    for length in range(0, len(data) - 64, 17):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"x\.pth is "):
            files.read_tensors(path)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        damaged = bytearray(data)
        for place in torch.randint(len(data), (3,), generator=generator):
            damaged[place] = int(torch.randint(256, (), generator=generator))
        path.write_bytes(damaged)
        try:
            tensors = files.read_tensors(path)
        except WeightsError as error:
            assert "\n" not in str(error)
        else:
            assert all(isinstance(value, Tensor) for value in tensors.values())


def test_a_web_page_is_no_weights_file(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_text("<!doctype html><title>404</title>")
    with pytest.raises(WeightsError, match=r"x\.pth is "):
        files.read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.ones(3, device="meta"),
        lambda: torch.ones(1).expand(2**20, 2**20),
    ],
    ids=["sparse", "csr", "quantised", "meta", "repeated"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain(tmp_path: Path, make: Callable[[], Tensor]) -> None:
    torch.save({"a": make()}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"x\.pth ") as caught:
        files.read_tensors(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_a_head_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.save({"head.bias": torch.ones(shape)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"a head with a bias of shape \(.*\), not \(classes,\)"):
        store.load(tmp_path / "x.pth", model=VIT)
