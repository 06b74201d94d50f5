"""Files of tensors of every kind: unwrapped, checked, never run, and bounded in time and memory."""

import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.weights.containers import MAX_TENSORS
from vitkit.weights.files import find_weights, read_tensors, weights_in

STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEGABYTES = 150  # what a refusal may take; the files below ask for thousands


def check_same(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Names, shapes, types and every bit agree."""
    assert set(given) == set(expected)
    for name, tensor in expected.items():
        assert given[name].dtype == tensor.dtype and torch.equal(given[name], tensor), name


def refused(path: Path, match: str) -> None:
    """One line, within two seconds of a processor, in little memory."""
    start, before = time.process_time(), peak_memory(reset=True)
    with pytest.raises(WeightsError, match=match) as caught:
        read_tensors(path)
    assert time.process_time() - start < 2.0
    assert peak_memory() - before < MEGABYTES
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500 + len(str(path)), message
    assert message.startswith(str(path.parent))


def peak_memory(*, reset: bool = False) -> int:
    """The most megabytes that this process has held since the last reset, where Linux tells it."""
    if not PEAK.exists():
        return 0
    if reset:
        PEAK.write_text("5")
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def write_zip(path: Path, content: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def write_pickle(path: Path, program: bytes) -> None:
    """A PyTorch file whose pickle is `program`, with one storage of 4 bytes."""
    write_zip(path, {"a/data.pkl": program, "a/version": b"3\n", "a/data/0": b"\0" * 4})


def write_safetensors(
    path: Path, header: Any, data: bytes = b"", length: int | None = None
) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def floats(start: int, stop: int, **other: Any) -> dict[str, Any]:
    """An entry of a safetensors header."""
    entry = {"dtype": "F32", "shape": [(stop - start) // 4], "data_offsets": [start, stop]}
    return entry | other


# What is read


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "optimizer": {}, "metric": 0.5},
    "model_ema": lambda state: {"model_ema": state, "model": {"wrong": torch.ones(1)}},
    "state_dict_ema": lambda state: {"state_dict_ema": state, "state_dict": {}},
    "module": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "both": lambda state: {"model": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
    "parameters": lambda state: {k: torch.nn.Parameter(v) for k, v in state.items()},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_pytorch_files(
    tmp_path: Path, legacy: bool, wrap: Callable[[dict[str, Tensor]], Any]
) -> None:
    state = {
        "norm.weight": torch.rand(4),
        "head.weight": torch.rand(3, 4, dtype=torch.float64).T,
        "scale": torch.tensor(2.0, dtype=torch.bfloat16),
        "head.bias": torch.rand(5)[1:3],
    }
    path = tmp_path / "no suffix at all"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not legacy)
    read = read_tensors(path)
    check_same(read, state)
    assert not any(tensor.requires_grad for tensor in read.values())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_training_run_with_its_optimiser_and_schedule(tmp_path: Path, legacy: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.ones(4), "exp_avg_sq": torch.ones(4)}
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "fused": None, "amsgrad": False, "params": [0, 1]}
    content = {
        "model": model,
        "optimizer": {"state": {0: moments, 1: moments}, "param_groups": [group]},
        "schedule": {"milestones": Counter({30: 1, 60: 1}), "last_epoch": 3, "base_lrs": [0.1]},
        "random": torch.get_rng_state(),
        "shape": torch.Size([3]),
        "type": torch.float32,
        "seen": {1, 2},
    }
    torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    check_same(read_tensors(tmp_path / "x"), model)


def test_safetensors_with_prefixes(tmp_path: Path) -> None:
    counter = {"bn.num_batches_tracked": torch.tensor(3)}
    save_file({"_orig_mod.a": torch.ones(3), "b": torch.ones(2)} | counter, tmp_path / "w")
    expected = {"a": torch.ones(3), "b": torch.ones(2)} | counter
    check_same(read_tensors(str(tmp_path / "w")), expected)


def test_the_length_of_a_safetensors_header_may_look_like_a_brace(tmp_path: Path) -> None:
    header = json.dumps({"a": floats(0, 4)}).encode().ljust(0x7B)
    write_safetensors(tmp_path / "x", header, struct.pack("<f", 3.0))
    check_same(read_tensors(tmp_path / "x"), {"a": torch.tensor([3.0])})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: Callable[..., None]) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "Transformer/encoderblock_0/kernel": random.standard_normal((3, 4)).astype(np.float32),
        "columns": np.asfortranarray(random.standard_normal((2, 3, 4))),
        "big endian": random.standard_normal(5).astype(">f4"),
        "half": random.standard_normal((2, 2)).astype(np.float16),
        "scalar": np.float32(3.0),
        "nothing": np.zeros((0, 3), np.float32),
        "zeros": np.zeros((768, 1000), np.float32),
        "opt/step": np.int32(7),
    }
    bfloat16 = torch.randn(3, 2).bfloat16()
    save(tmp_path / "x.npz", bf16=bfloat16.view(torch.int16).numpy().view("V2"), **arrays)
    native = {k: np.ascontiguousarray(a, a.dtype.newbyteorder("=")) for k, a in arrays.items()}
    expected = {name: torch.from_numpy(a.reshape(arrays[name].shape)) for name, a in native.items()}
    check_same(read_tensors(tmp_path / "x.npz"), expected | {"bf16": bfloat16})


@pytest.mark.parametrize(("suffix", "save"), [("safetensors", save_file), ("bin", torch.save)])
def test_shards(tmp_path: Path, suffix: str, save: Callable[..., None]) -> None:
    parts = [{"module.a": torch.rand(3), "b": torch.rand(2, 2)}, {"c": torch.rand(4)}]
    index = tmp_path / f"model.{suffix}.index.json"
    places = {}
    for number, part in enumerate(parts):
        name = f"model-{number}.{suffix}"
        save(part, tmp_path / f"blob{number}")
        (tmp_path / name).symlink_to(f"blob{number}")  # as in the cache of the hub
        places |= dict.fromkeys(part, name)
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}, indent=2))
    check_same(read_tensors(index), {"a": parts[0]["module.a"], "b": parts[0]["b"]} | parts[1])
    (tmp_path / f"model-1.{suffix}").unlink()
    refused(index, rf"needs model-1\.{suffix}, which is not there")


def test_the_file_is_not_held_twice(tmp_path: Path) -> None:
    """The numbers are looked at, but the pages belong to the file until they are changed."""
    if not PEAK.exists():
        pytest.skip("the memory of a process is read from Linux")
    save_file({"a": torch.zeros(20_000_000)}, tmp_path / "a")
    torch.save({"a": torch.zeros(20_000_000)}, tmp_path / "b")
    for name in "ab":
        before = own_memory()
        tensors = read_tensors(tmp_path / name)
        assert own_memory() - before < 20
        del tensors


def own_memory() -> int:
    """Megabytes that are the process's own, not of a file."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) // 1024


# What a directory holds


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin", "x.npz"], "model.safetensors"),
        (["pytorch_model.bin", "model.safetensors.index.json"], "model.safetensors.index.json"),
        (["pytorch_model.bin.index.json", "a.bin"], "pytorch_model.bin.index.json"),
        (["ViT-B_16.npz", "README.md", "more/x.safetensors"], "ViT-B_16.npz"),
        (["deit.pth", "training_args.bin", "optimizer.pt"], "deit.pth"),
    ],
)
def test_the_weights_of_a_directory(tmp_path: Path, names: list[str], expected: str) -> None:
    assert find_weights(names, "here") == expected
    (tmp_path / "more").mkdir()
    for name in names:
        (tmp_path / name).touch()
    assert weights_in(tmp_path) == tmp_path / expected


def test_none_or_several(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="here holds no weights; model.safetensors is the usual"):
        find_weights(["config.json"], "here")
    with pytest.raises(WeightsError, match=r"holds 2 files of weights \(a.pth, b.pth\)"):
        find_weights(["b.pth", "a.pth"], "here")
    with pytest.raises(WeightsError, match="absent cannot be read: No such file"):
        weights_in(tmp_path / "absent")


# What is no file of weights


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is of no known kind: it is empty"),
        (b"abc", "is of no known kind: its first bytes are b'abc'; use .safetensors"),
        (b"\xff" * 100, "is of no known kind"),
        (b"<!doctype html><title>404</title>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "it is HDF5"),
        (npy(np.ones(3)), "one NumPy array without a name"),
        (pickle.dumps({"a": 1}), "a plain pickle, which could run code"),
        (b'{"architecture": "vit"}', "JSON, but no index of weights"),
        (b'{"weight_map": 3}', "JSON, but no index of weights"),
        (b'{"weight_map": {', "JSON, but no index of weights"),
        (b'{"a":' * 100_000, "JSON, but no index of weights"),
        (b'{"weight_map": {"a": "x"}, "b": "' + b"x" * 10_000_000 + b'"}', "no index of weights"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_no_weights(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path / "model.safetensors", match)


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "does not exist")
    refused(tmp_path, "is a directory, not a file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is a pipe or device")
    (tmp_path / "link").symlink_to("nowhere")
    refused(tmp_path / "link", "is a link to nothing")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "cannot be read: ")
    refused(tmp_path / ("x" * 300), "cannot be read: File name too long")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").touch(mode=0)
    if os.access(tmp_path / "x", os.R_OK):  # the superuser may read all

        def deny(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(WeightsError, match="x cannot be read: Permission denied"):
        read_tensors(tmp_path / "x")


@pytest.mark.parametrize(
    ("places", "match"),
    [
        ({"a": "../x"}, "leads to '../x'"),
        ({"a": "/etc/passwd"}, "leads to '/etc/passwd'"),
        ({"a": "sub/x"}, "leads to 'sub/x'"),
        ({"a": "..\\x"}, "leads to "),
        ({"a": ".."}, r"index is a directory|leads to|is a directory"),
        ({"a": "index"}, "JSON|no known kind"),
        ({"a": "z" * 300}, "which is not there"),
        ({"a": "x", "b": "x"}, "lacks 'b', which index lists"),
        ({"a": "x", "c": "y"}, "holds 'a', as another shard does"),
        ({}, "holds no tensors"),
    ],
)
def test_hostile_indices(tmp_path: Path, places: dict[str, str], match: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x")
    save_file({"a": torch.ones(1), "c": torch.ones(1)}, tmp_path / "y")
    (tmp_path / "index").write_text(json.dumps({"weight_map": places}))
    refused(tmp_path / "index", match)


# What holds something else than weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.ones(1), "step": 3}, "holds 'step', which is no tensor"),
        ({3: torch.ones(1)}, "holds 3, which is no tensor"),
        ({"a": "text"}, "holds 'a', which is no tensor"),
        ({"a\n" + "b" * 1000: 1}, r"holds 'a\\nb+, which is no tensor"),
        ([torch.ones(1)], "holds a list, not named tensors"),
        ({"model": {}}, "holds a dict, not named tensors"),
        (torch.ones(1), "holds a Tensor, not named tensors"),
        ({"module.a": torch.ones(1), "a": torch.ones(1)}, "holds 'a' twice"),
        ({"head.weight": torch.arange(3)}, "holds 'head.weight' as torch.int64, where weights"),
        ({"a": torch.ones(3, dtype=torch.bool)}, "holds 'a' as torch.bool"),
        ({"a": torch.eye(3).to_sparse()}, "sparse, quantised, complex, empty or"),
        ({"a": torch.ones(3, device="meta")}, "sparse, quantised, complex, empty or"),
        ({"a": torch.ones(3, dtype=torch.complex64)}, "sparse, quantised, complex, empty or"),
        ({"a": torch.ones(3).to(torch.float8_e4m3fn)}, "sparse, quantised|as torch.float8"),
        ({"a": torch.ones(1).expand(2**20, 2**20)}, "repeated or empty"),
        (dict.fromkeys(map(str, range(90)), torch.ones(10_000)), "by using some again and again"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
@pytest.mark.parametrize("legacy", [False, True])
def test_no_state_dict(tmp_path: Path, content: Any, message: str, legacy: bool) -> None:
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    refused(tmp_path / "x.pth", message)


@pytest.mark.filterwarnings("ignore")
def test_quantised_and_compressed_rows(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    for tensor in (quantised, torch.eye(3).to_sparse_csr()):
        torch.save({"a": tensor}, tmp_path / "x.pth")
        refused(tmp_path / "x.pth", "sparse, quantised, complex, empty or")


def test_a_script_is_no_state_dict(tmp_path: Path) -> None:
    write_zip(tmp_path / "x", {"a/data.pkl": b"", "a/constants.pkl": b""})
    refused(tmp_path / "x", "is a TorchScript program")
    write_zip(tmp_path / "x", {"photo.jpg": b"", "notes.txt": b""})
    refused(tmp_path / "x", "is a zip without 'photo.jpg/data.pkl'")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_not_a_number(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    weight = torch.full((33, 65), torch.finfo(dtype).max, dtype=dtype)  # their sum is infinite
    save_file({"a": weight}, tmp_path / "good")
    check_same(read_tensors(tmp_path / "good"), {"a": weight})
    weight[20, 64] = value
    save_file({"b": torch.ones(2), "head.weight": weight}, tmp_path / "x")
    refused(tmp_path / "x", "holds NaN or infinity in 'head.weight'")


@pytest.mark.parametrize("kind", ["U16", "F8_E4M3", "F4", "C64"])
def test_other_types_of_safetensors(tmp_path: Path, kind: str) -> None:
    size = {"U16": 4, "F8_E4M3": 2, "F4": 1, "C64": 16}[kind]
    entry = {"dtype": kind, "shape": [2], "data_offsets": [0, size]}
    write_safetensors(tmp_path / "x", {"a": entry}, b"\0" * size)
    refused(tmp_path / "x", f"holds 'a' as {kind}")


# What would run code


def leave_a_mark(path: str) -> None:
    """What a hostile file would run."""
    Path(path).touch()


class Hostile:
    """Runs `call` when it is unpickled."""

    def __init__(self, call: Callable[[str], object], argument: str) -> None:
        self.call, self.argument = call, argument

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return self.call, (self.argument,)


@pytest.mark.parametrize("way", ["zip", "legacy", "plain pickle", "npz"])
@pytest.mark.parametrize("call", ["system", "function", "eval"])
@pytest.mark.parametrize("name", ["x.pth", "x.npz", "model.safetensors"])
def test_nothing_is_run(tmp_path: Path, way: str, call: str, name: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / name
    bomb = {
        "system": Hostile(os.system, f"touch '{marker}'"),
        "function": Hostile(leave_a_mark, str(marker)),
        "eval": Hostile(eval, f"__import__('pathlib').Path({str(marker)!r}).touch()"),
    }[call]
    content = {"model": {"head.bias": torch.ones(3)}, "args": bomb}
    if way == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
        pickle.loads(path.read_bytes())  # the bomb is live
        marker.unlink()
    elif way == "npz":
        with open(path, "wb") as file:
            np.savez(file, a=np.ones(2), b=np.array([bomb], dtype=object))
        np.load(path, allow_pickle=True)["b"]
        marker.unlink()
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    refused(path, "could run code")
    assert not marker.exists()


# What is damaged


def damaged_copies(data: bytes, step: int, changes: int) -> list[bytes]:
    """Cut short anywhere, then with three bytes changed."""
    copies = [data[:length] for length in range(0, len(data) - 1, step)]
    random = np.random.default_rng(0)
    for _ in range(changes):
        copy = bytearray(data)
        for place in random.integers(len(data), size=3):
            copy[place] = random.integers(256)
        copies.append(bytes(copy))
    return copies


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "npz"])
def test_damage(tmp_path: Path, kind: str) -> None:
    """A WeightsError of one line, or tensors, and never anything else."""
    path = tmp_path / "x"
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator)
    state = {"a.weight": weight, "b.num_batches_tracked": torch.arange(5)}
    match kind:
        case "safetensors":
            save_file(state, path)
        case "npz":
            with open(path, "wb") as file:
                np.savez_compressed(file, **{name: t.numpy() for name, t in state.items()})
        case _:
            torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    cut = len(range(0, len(data) - 1, 17))
    for number, copy in enumerate(damaged_copies(data, 17, 300)):
        path.write_bytes(copy)
        try:
            tensors = read_tensors(path)
        except WeightsError as error:
            assert str(error).isprintable()
        else:
            assert number >= cut
            assert all(isinstance(value, Tensor) for value in tensors.values())


@pytest.mark.parametrize(
    ("header", "data", "match"),
    [
        ({"a": floats(0, 8), "b": floats(4, 12)}, 12, "invalid offset for tensor `b`"),
        ({"a": floats(0, 8), "b": floats(12, 16)}, 16, "invalid offset"),
        ({"a": floats(0, 8, shape=[3])}, 8, "no whole safetensors file"),
        ({"a": floats(0, 8, shape=[2**40, 2**40])}, 8, "no whole safetensors file"),
        ({"a": floats(0, 8)}, 4, "not fully covered"),
        ({"a": floats(0, 8)}, 80, "not fully covered"),
        ({"a": floats(0, 8, dtype="STRING")}, 8, "unknown variant"),
        ({"a": floats(0, 8, data_offsets=[8, 0])}, 8, "no whole safetensors file"),
        ({"a": floats(0, 8, data_offsets=[-8, 0])}, 8, "no whole safetensors file"),
        ({}, 0, "holds a dict, not named tensors"),
        (b"{" * 1_000_000, 0, "no whole safetensors file"),
        (b'{"a":' * 500_000, 0, "no whole safetensors file"),
        (b"{" + b" " * 5_000_000 + b"}", 0, "header of 5000002 bytes, over"),
        ({str(i): floats(4 * i, 4 * i + 4) for i in range(30_000)}, 120_000, "30000 tensors, over"),
        ({str(i): floats(4 * i, 4 * i + 4) for i in range(100_000)}, 400_000, "header of .* over"),
    ],
    ids=range(15),
)
def test_headers_that_lie(tmp_path: Path, header: Any, data: int, match: str) -> None:
    write_safetensors(tmp_path / "x", header, b"\0" * data)
    refused(tmp_path / "x", match)


@pytest.mark.parametrize("length", [3, 2**32, 2**63, 2**64 - 1])
def test_headers_of_a_wrong_length(tmp_path: Path, length: int) -> None:
    write_safetensors(tmp_path / "x", {"a": floats(0, 4)}, b"\0" * 4, length)
    refused(tmp_path / "x", "no whole safetensors file")


# Bombs


def test_zip_bombs(tmp_path: Path) -> None:
    zeros = npy(np.zeros(10_000_000, np.float32))
    write_zip(tmp_path / "x", {"a.npy": zeros}, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "x", "unpacks from .* as a zip bomb does")
    write_zip(tmp_path / "x", {"a/data.pkl": b"", "a/b": zeros}, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "x", "unpacks from .* as a zip bomb does")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        write_zip(tmp_path / "x", {"a.npy": npy(np.ones(3))}, method)
        refused(tmp_path / "x", "'a.npy' encrypted or in a compression that is not read")
    write_zip(tmp_path / "x", {"a/data.pkl": b"x" * 100}, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "x", "'a/data.pkl' encrypted or in a compression")
    inner = io.BytesIO()
    np.savez_compressed(inner, a=np.zeros(100))
    write_zip(tmp_path / "x", {"a.npy": npy(np.ones(1)), "b.npz": inner.getvalue()})
    refused(tmp_path / "x", "holds 'b.npz', which is no whole array")


@pytest.mark.parametrize("stored", [2**40, 10])
def test_members_of_terabytes(tmp_path: Path, stored: int) -> None:
    """The directory says so; the bytes are not there."""
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("a.npy", npy(np.ones(3)))
        (member,) = archive.infolist()
        member.file_size, member.compress_size = 2**40, stored
    refused(tmp_path / "x", "overlap" if stored > 10 else "unpacks from")


def test_members_that_are_the_same_bytes(tmp_path: Path) -> None:
    """The best bombs have one kernel that thousands of entries of the directory share."""
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("a.npy", npy(np.ones(100_000)))
        (member,) = archive.infolist()
        for number in range(100):
            archive.filelist.append(copy_of(member, f"{number}.npy"))
    refused(tmp_path / "x", "members that overlap")


def copy_of(member: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    other = zipfile.ZipInfo(name)
    for field in ("header_offset", "file_size", "compress_size", "CRC"):
        setattr(other, field, getattr(member, field))
    return other


def test_too_many_members(tmp_path: Path) -> None:
    write_zip(tmp_path / "x", {f"{i}.npy": b"" for i in range(MAX_TENSORS + 100)})
    refused(tmp_path / "x", "has over 6050 members")
    data = (tmp_path / "x").read_bytes()
    end = data.rindex(b"PK\5\6")
    entries = data[data.index(b"PK\1\2") : end]
    size = len(entries) * 15
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, size, 4 + 26, 0)
    (tmp_path / "x").write_bytes(data[:30] + entries * 15 + tail)
    refused(tmp_path / "x", "has a directory of .* bytes, over")


def test_two_directories_in_one_file(tmp_path: Path) -> None:
    """Python looks for the directory at the end, PyTorch where the end says it is."""
    torch.save({"a": torch.ones(1)}, tmp_path / "x")
    (tmp_path / "x").write_bytes(b"PK\3\4" + bytes(60) + (tmp_path / "x").read_bytes())
    refused(tmp_path / "x", "its directory is elsewhere")
    write_zip(tmp_path / "x", {"a/data.pkl": b"", "A/DATA.PKL": b""})
    refused(tmp_path / "x", "two members of one name")


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ("(1000000000000,)", r"of shape \(1000000000000,\) and type float32, in 12 bytes"),
        ("(2,)", "in 12 bytes"),
        ("(-3,)", "in 12 bytes"),
        ("(" + "1," * 100 + ")", "in 12 bytes"),
        ("(3,), 'more': 1", "no whole array"),
        ("3", "no whole array"),
        ("(" * 90, "no whole array"),
        ("-" * 600 + "1", "no whole array"),
        ("'" + "x" * 20_000 + "'", "no whole array"),
        ("__import__('os')", "no whole array"),
    ],
    ids=lambda text: text[:20],
)
def test_array_headers_that_lie(tmp_path: Path, shape: str, match: str) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(200).encode()
    header = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text
    write_zip(tmp_path / "x", {"a.npy": header + bytes(12)})
    refused(tmp_path / "x", match)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text"]),
        np.array([1 + 2j]),
        np.zeros(3, [("a", "f4"), ("b", "i4")]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.zeros(3, "V4"),
        np.zeros(3, np.longdouble),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_no_numbers(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(2), b=array)
    refused(tmp_path / "x.npz", "holds 'b' as .*, which is no number|no whole array|as torch")


ORDERED = b"ccollections\nOrderedDict\nq\x00"
STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0\x30X\3\0\0\0cpuK\1tq\1"
PROGRAMS = {
    "tuples as deep as a stack": (b"}" + b")" + b"\x85" * 250_000 + b"K\1s.", "more parts"),
    "every operation": (b"}" * 2_000_000 + b".", "more parts"),
    "objects": (ORDERED + b"h\0)R" * 100_000 + b".", "more parts"),
    "storages": (STORAGE + b"h\1Q" * 50_000 + b".", "more parts"),
    "a large array": (b"c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\x04\x85R.", "bytearray"),
    "a large tensor": (b"ctorch\nFloatTensor\n\x8a\x05\0\0\0\0\x04\x85R.", "FloatTensor"),
    "a slow codec": (b"c_codecs\nencode\nX\1\0\0\0aX\4\0\0\0idna\x86R.", "_codecs.encode"),
    "a new protocol": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "pickle protocol 4"),
    "a string of terabytes": (
        b"\x8d" + struct.pack("<Q", 2**40) + b"x.",
        "no whole PyTorch|a piece of 10995",
    ),
    "nothing": (b"", "no whole PyTorch file"),
}


@pytest.mark.parametrize(("program", "match"), PROGRAMS.values(), ids=PROGRAMS)
def test_hostile_programs(tmp_path: Path, program: bytes, match: str) -> None:
    write_pickle(tmp_path / "x", b"\x80\2" + program)
    refused(tmp_path / "x", match)
    prefix = b"".join(pickle.dumps(part, 2) for part in (LEGACY_MAGIC, 1001, {}))
    (tmp_path / "x").write_bytes(prefix + b"\x80\2" + program + pickle.dumps([], 2))
    refused(tmp_path / "x", match)


LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def test_legacy_pieces_of_gigabytes(tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as file:
        file.write(pickle.dumps(LEGACY_MAGIC, 2) + b"\x80\2X" + struct.pack("<L", 2**32 - 1))
        file.truncate(2**32)  # takes no disk
    refused(tmp_path / "x", "a piece of 4294967295 bytes")
    with open(tmp_path / "x", "wb") as file:
        file.write(pickle.dumps(LEGACY_MAGIC, 2) + b"\x80\2c")
        file.truncate(2**32)
    refused(tmp_path / "x", "no whole PyTorch file")


def test_a_legacy_file_is_not_tried_as_a_tar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch would unpack one that is both onto the disk."""
    state = {"a": torch.ones(4)}
    torch.save(state, tmp_path / "x", _use_new_zipfile_serialization=False)
    monkeypatch.setattr("tarfile.open", lambda *args, **kwargs: pytest.fail("tried as a tar"))
    check_same(read_tensors(tmp_path / "x"), state)


def test_storages_that_are_not_there(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(4)}, tmp_path / "x", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x").read_bytes()
    whole, huge = b"K\x04Ntq", b"\x8a\x06\0\0\0\0\0\1Ntq"  # numbers in the storage
    assert data.count(whole) == 1
    (tmp_path / "x").write_bytes(data.replace(whole, huge))
    refused(tmp_path / "x", "no whole PyTorch file")
    torch.save({"a": torch.ones(4)}, tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    shape = content["x/data.pkl"].replace(b"K\x04\x85", b"\x8a\x06\0\0\0\0\0\1\x85")
    assert shape != content["x/data.pkl"]
    write_zip(tmp_path / "x", content | {"x/data.pkl": shape})
    refused(tmp_path / "x", "no whole PyTorch file")


def test_as_many_tensors_as_there_may_be(tmp_path: Path) -> None:
    state = {f"blocks.{i}.attn.qkv.weight": torch.tensor([float(i)]) for i in range(MAX_TENSORS)}
    torch.save(state, tmp_path / "x")
    start = time.process_time()
    read = read_tensors(tmp_path / "x")
    assert len(read) == MAX_TENSORS and time.process_time() - start < 4.0
    torch.save(state | {"one more": torch.ones(1)}, tmp_path / "x")
    refused(tmp_path / "x", "is made of more parts than 6000 tensors are")
