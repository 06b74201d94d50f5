"""Files of named tensors, from anywhere: read with suspicion, and never run.

What a file is, its first bytes tell. Everything that it says of sizes is checked against its own
length before memory is taken.
"""

import json
import pickle
import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitkit.errors import WeightsError

Kind = Literal["safetensors", "pytorch", "numpy"]
SUFFIXES: dict[str, Kind] = {
    ".safetensors": "safetensors",
    ".pth": "pytorch",
    ".pt": "pytorch",
    ".bin": "pytorch",
    ".npz": "numpy",
}
WRAPPERS = ("model_ema", "state_dict_ema", "model", "state_dict")  # where training scripts put it
PREFIXES = ("module.", "_orig_mod.")
IN_DIRECTORY = (  # what the weights of a checkpoint directory are called, the best first
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# The largest published models have some 1,500 tensors. More than this is no model, and only takes
# time.
MOST_TENSORS = 20_000
MOST_HEADER = 2**23  # bytes of a safetensors header; 20,000 tensors need a third of it
MOST_INDEX = 2**23  # bytes of an index of shards
MOST_EXPANSION = 16  # times its size that a zip may unpack to; trained weights hardly shrink
SLACK = 2**24  # bytes that a small zip may unpack to in any case


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors, PyTorch or NumPy file, or of an index of them, on the CPU.

    Nothing is ever unpickled that could run code. Wrappers that training scripts put around a state
    dict are taken off, averaged weights first.

    Raises:
        WeightsError: the file is absent, damaged, of another kind, or holds more than tensors.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    try:
        kind = _kind_of(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from None
    readers = {"safetensors": _read_safetensors, "pytorch": _read_pytorch, "numpy": _read_numpy}
    tensors = _unwrap(readers[kind](path), path)
    _check_finite(tensors, path)
    return tensors


def weights_in(directory: Path) -> Path:
    """The weights file of a directory: a well-known name, or the only one that there is.

    Raises:
        WeightsError: there is none, or there are several.
    """
    for name in IN_DIRECTORY:
        if (directory / name).is_file():
            return directory / name
    found = [path for path in sorted(directory.iterdir()) if path.suffix in SUFFIXES]
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "nothing else"
        why = "does not exist" if not found else f"does not exist, and there are {names}"
        raise WeightsError(f"{directory / IN_DIRECTORY[0]} {why}; name the file itself")
    return found[0]


def _kind_of(path: Path) -> Kind:
    with open(path, "rb") as file:
        head = file.read(9)
    if head[:4] == b"PK\x03\x04":
        return "numpy" if _zip_of_arrays(path) else "pytorch"
    if head[8:] == b"{" and path.suffix != ".npz":
        return "safetensors"
    if head[:1] == b"\x80":  # a bare pickle, as PyTorch wrote until 1.6
        return "pytorch"
    if path.suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise WeightsError(f"{path} is of no known kind; use {known}")
    return SUFFIXES[path.suffix]


def _zip_of_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(info.filename.endswith(".npy") for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return path.suffix == ".npz"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(MOST_HEADER, path.stat().st_size):
        raise WeightsError(
            f"{path} is no whole safetensors file: its header would have {length:,} bytes"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            _check_count(len(names), path)
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is no whole safetensors file: {error}") from None


def _read_pytorch(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        _check_zip(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} is damaged, or holds Python objects beside tensors, which could run code when "
            "read, and is refused; save its state dict alone, or as .safetensors"
        ) from None
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise WeightsError(f"{path} is no whole PyTorch file: {reason}") from None


def _read_numpy(path: Path) -> dict[str, Tensor]:
    _check_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            return {
                info.filename.removesuffix(".npy"): _read_array(archive, info) for info in infos
            }
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes again
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise WeightsError(f"{path} is no whole .npz file: {reason}") from None


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    """One array of an `.npz`, its header checked against the bytes that there are."""
    with archive.open(info) as file:
        shape, is_fortran, dtype = _array_header(file)
        name = reprlib.repr(info.filename)
        if dtype.hasobject:
            raise WeightsError(f"{name} holds Python objects, which could run code, and is refused")
        bfloat16 = dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None  # JAX's
        if dtype.kind not in "biuf" and not bfloat16:
            raise WeightsError(f"{name} has type {dtype}, which is no number")
        size = dtype.itemsize
        for side in shape:
            size *= side
        if size > info.file_size:
            raise WeightsError(f"{name} would have {size:,} bytes, more than the file holds of it")
        data = file.read(size)
        if len(data) != size:
            raise WeightsError(f"{name} ends after {len(data):,} of {size:,} bytes")
    order: Any = "F" if is_fortran else "C"
    flat = np.frombuffer(bytearray(data), np.dtype("i2") if bfloat16 else dtype)
    array = np.ascontiguousarray(flat.reshape(shape, order=order)).reshape(shape)
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    return tensor.view(torch.bfloat16) if bfloat16 else tensor


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _check_zip(path: Path) -> None:
    """Refuse a zip that unpacks to far more than a file of weights can."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [info.file_size for info in archive.infolist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{path} is no whole zip file, as weights are: {error}") from None
    _check_count(len(sizes), path)
    if sum(sizes) > path.stat().st_size * MOST_EXPANSION + SLACK:
        raise WeightsError(
            f"{path} would unpack to {sum(sizes):,} bytes, which no weights do; it is refused"
        )


def _check_count(count: int, path: Path) -> None:
    if count > MOST_TENSORS:
        raise WeightsError(
            f"{path} has {count:,} parts, more than the {MOST_TENSORS:,} that we read"
        )


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds a {type(content).__name__}, not named tensors")
    _check_count(len(content), path)
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path} holds {name!r}, which is no tensor, among its weights")
        if not _is_plain(value):
            raise WeightsError(
                f"{path} holds {name!r} as a sparse, quantised, repeated or empty tensor; "
                "save it as a plain one"
            )
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        tensors[name] = value
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    """Whether every number of a tensor stands in memory, one after the other or by strides."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.nbytes


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            continue
        # The sum is infinite or nan if a number is; finite ones may overflow it, so look again.
        total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
        if not total.isfinite() and not tensor.isfinite().all():
            raise WeightsError(
                f"{path} holds {name!r} with nan or infinity; the weights are broken"
            )


def _read_shards(path: Path) -> dict[str, Tensor]:
    """The tensors of an index, from the files beside it."""
    shards = read_index(path)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        tensors |= read_tensors(path.parent / name)
    missing = [name for name in shards if name not in tensors]
    if missing:
        raise WeightsError(f"{path} promises {missing[0]}, which no file has")
    return tensors


def read_index(path: Path) -> dict[str, str]:
    """Which file each tensor is in, as an index says it: `{"weight_map": {name: file}}`.

    Raises:
        WeightsError: it is no index, or names a file that is not beside it.
    """
    try:
        if path.stat().st_size > MOST_INDEX:
            raise ValueError("too large")
        shards: dict[str, str] = json.loads(path.read_text("utf-8"))["weight_map"]
        outside = [name for name in shards.values() if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is no index of weights: {reason}") from None
    if outside:
        raise WeightsError(f"{path} names {outside[0]!r}, which is no file beside it")
    return shards
