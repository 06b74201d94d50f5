"""Named tensors out of any file of weights, on the CPU, with their names as models have them."""

import json
import math
import os
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.weights.containers import npz, pytorch, safetensors

# By preference, as Hugging Face, timm and we name them in a directory or repository.
USUAL = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz")  # the only one of these, otherwise
BESIDE = (  # what trainers leave there besides
    "training_args.bin",
    "optimizer.bin",
    "optimizer.pt",
    "scaler.pt",
    "scheduler.bin",
    "scheduler.pt",
    "rng_state.pth",
)
INDEX = ".index.json"

WRAPPERS = ("model_ema", "state_dict_ema", "model", "state_dict")  # where training scripts put it
PREFIXES = ("module.", "_orig_mod.")  # of models in parallel, and of compiled ones
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
COUNTERS = (  # the last part of the names of what are whole numbers by nature
    "num_batches_tracked",
    "n_averaged",
    "position_ids",
    "relative_position_index",
    "step",
)
MAX_SHARING = 2  # tied weights are one tensor under two names
MAX_INDEX_BYTES = 4_000_000  # 500 for each of MAX_TENSORS; 100 are usual

FOREIGN = (
    (b"version https://git-lfs", "a pointer of git-lfs in place of the file; run `git lfs pull`"),
    (b"\x93NUMPY", "one NumPy array without a name; use numpy.savez"),
    (b"\x89HDF", "HDF5, as Keras writes it; save it as .safetensors"),
    (b"\x80", "a plain pickle, which could run code when read, and is refused; use .safetensors"),
    (b"\x1f\x8b", "gzip; unpack it"),
    (b"<", "a web page; fetch the file again"),
)


def find_weights(names: Collection[str], place: str) -> str:
    """The name of the weights among the names of a directory or repository.

    Raises:
        WeightsError: none, or several that may be meant.
    """
    for name in USUAL:
        if name in names:
            return name
    for suffix in SUFFIXES:
        found = sorted(n for n in names if n.endswith(suffix) and n not in BESIDE and "/" not in n)
        if len(found) > 1:
            raise WeightsError(
                f"{place} holds {len(found)} files of weights ({', '.join(found[:3])}); give one"
            )
        if found:
            return found[0]
    raise WeightsError(f"{place} holds no weights; {USUAL[0]} is the usual name")


def weights_in(directory: Path) -> Path:
    """The file of weights in a directory.

    Raises:
        WeightsError: none, or several that may be meant; the directory cannot be read.
    """
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError as error:
        raise WeightsError(f"{directory} cannot be read: {error.strerror}") from None
    return directory / find_weights(names, str(directory))


def listed_shards(index: Path) -> dict[str, set[str]]:
    """The files that an index lists, with the names of the tensors in each.

    Raises:
        WeightsError: it is no index, or leads elsewhere than beside it.
    """
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError("too large")
        places = json.loads(index.read_text("utf-8"))["weight_map"]
        shards: dict[str, set[str]] = {}
        for name, file in places.items():
            shards.setdefault(str(file), set()).add(str(name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WeightsError(
            f"{index} is JSON, but no index of weights; give the weights, or their directory"
        ) from None
    for file in shards:
        if PurePosixPath(file).name != file or "\\" in file or "\0" in file:
            raise WeightsError(f"{index} leads to {_show(file)}; its files must lie beside it")
    return shards


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a file of weights, on the CPU.

    The kind of file is seen from its first bytes: `.safetensors`, PyTorch's, `.npz`, or the index
    of several of them. Nothing is ever unpickled that could run code. Wrappers that training
    scripts put around a state dict are taken off, averaged weights first. Large files are mapped
    into memory, so a file must not be written to while its tensors are in use.

    Raises:
        WeightsError: the file is absent, damaged, of another kind, holds more than plain tensors,
            whole numbers in place of floats, or NaN or infinity.
    """
    path = Path(path)
    whole = _read_index(path) if _is_index(path) else _read_one(path)
    if not whole:
        raise WeightsError(f"{path} holds no tensors")
    tensors: dict[str, Tensor] = {}
    for full_name, tensor in whole.items():
        name = full_name
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name in tensors:
            raise WeightsError(f"{path} holds {_show(name)} twice, with and without a prefix")
        tensors[name] = tensor
    return tensors


def _read_one(path: Path) -> dict[str, Tensor]:
    """The tensors of one file that holds them, checked."""
    read = _reader(path)
    content = _unwrapped(read(path), path)
    tensors = {name: _plain(name, value, path) for name, value in content.items()}
    size, total = path.stat().st_size, sum(tensor.nbytes for tensor in tensors.values())
    if read is pytorch.read and total > MAX_SHARING * size:  # the others are bounded as they are
        raise WeightsError(
            f"{path} makes {total} bytes of tensors out of {size}, by using some again and again; "
            "save each as a plain one"
        )
    for name, tensor in tensors.items():
        _check_numbers(name, tensor, path)
    return tensors


def _reader(path: Path) -> Callable[[Path], Any]:
    """What reads a file, by its first bytes."""
    start = _beginning(path)
    if start[8:9] == b"{":
        return safetensors.read
    if start.startswith(b"PK\x03\x04"):
        return npz.read if _is_npz(path) else pytorch.read
    if start.startswith(pytorch.LEGACY):
        return pytorch.read
    looks = next((text for magic, text in FOREIGN if start.lstrip().startswith(magic)), "")
    if looks:
        raise WeightsError(f"{path} is of no known kind: it is {looks}")
    what = f"its first bytes are {start[:8]!r}" if start else "it is empty"
    raise WeightsError(
        f"{path} is of no known kind: {what}; use .safetensors, .pth, .pt, .bin or .npz"
    )


def _beginning(path: Path) -> bytes:
    """The first bytes of a file, once it is known to be one."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb") as file:
                return file.read(64)
    except FileNotFoundError:
        what = "is a link to nothing" if path.is_symlink() else "does not exist"
        raise WeightsError(f"{path} {what}") from None
    except (OSError, ValueError) as error:  # such as no permission, or a name with a zero byte
        why = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path} cannot be read: {why}") from None
    what = "a directory" if stat.S_ISDIR(mode) else "a pipe or device"
    raise WeightsError(f"{path} is {what}, not a file of weights")


def _is_npz(path: Path) -> bool:
    """Whether the first member of a zip is an array."""
    with open(path, "rb") as file:
        header = file.read(30)
        name = file.read(int.from_bytes(header[26:28], "little"))
    return name.endswith(b".npy")


def _is_index(path: Path) -> bool:
    """Whether a file is JSON; the length that begins a safetensors file may look like a brace."""
    start = _beginning(path)
    return start.lstrip().startswith(b"{") and b"\0" not in start[:8]


def _read_index(path: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names, which lie beside it."""
    tensors: dict[str, Tensor] = {}
    for file, names in listed_shards(path).items():
        shard = path.parent / file
        if not os.path.exists(shard):  # false for any name that cannot be
            raise WeightsError(f"{path} needs {file}, which is not there; fetch all of its files")
        content = _read_one(shard)
        if missing := names - content.keys():
            raise WeightsError(f"{shard} lacks {_show(min(missing))}, which {path.name} lists")
        if twice := content.keys() & tensors.keys():
            raise WeightsError(f"{shard} holds {_show(min(twice))}, as another shard does")
        tensors |= content
    return tensors


def _unwrapped(content: Any, path: Path) -> Mapping[Any, Any]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds a {type(content).__name__}, not named tensors")
    return content


def _plain(name: Any, value: Any, path: Path) -> Tensor:
    """A tensor that has each of its numbers in memory, one after the other or by strides."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise WeightsError(f"{path} holds {_show(name)}, which is no tensor, among its weights")
    strided = value.layout == torch.strided and not value.is_quantized and not value.is_meta
    if not strided or value.untyped_storage().nbytes() < value.nbytes:
        raise WeightsError(
            f"{path} holds {_show(name)} as a sparse, quantised, repeated or empty tensor; "
            "save it as a plain one"
        )
    return value.detach()


def _check_numbers(name: str, tensor: Tensor, path: Path) -> None:
    if tensor.dtype not in FLOATS:
        fractional = tensor.is_floating_point() or tensor.is_complex()
        if not fractional and name.replace("/", ".").rpartition(".")[2] in COUNTERS:
            return
        raise WeightsError(
            f"{path} holds {_show(name)} as {tensor.dtype}, where weights are float32, float16, "
            "bfloat16 or float64"
        )
    # The smallest and the largest number tell it in one pass, 16 times as fast as `isfinite`.
    if tensor.numel() and not all(math.isfinite(end.item()) for end in tensor.aminmax()):
        raise WeightsError(
            f"{path} holds NaN or infinity in {_show(name)}; it is damaged, or its training "
            "diverged: take an earlier checkpoint"
        )


def _show(name: object) -> str:
    return repr(name)[:100]
