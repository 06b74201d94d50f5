"""`.pth`, `.pt` and `.bin`: what `torch.save` writes, a zip since PyTorch 1.6, bare pickles before.

Both hold a pickle, a program that builds objects. PyTorch's own restricted reader runs it; but that
one still takes any memory it is asked for, and tuples nested 200,000 deep crash the interpreter. So
the program is read first, and only what state dicts are made of is let through.
"""

import io
import itertools
import pickle
import pickletools
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

import torch

from vitkit.errors import WeightsError
from vitkit.weights.containers import MAX_TENSORS, reason, zip

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of the number that comes first
LEGACY_PICKLES = 5  # that number, a version, the system, the content, the order of the numbers
PROTOCOL = 2
MAX_PICKLE_BYTES = 16_000_000  # 2,000 for each of MAX_TENSORS; 110 and a name are usual
MAX_LINE = 200  # bytes in the name of a class

# What one tensor takes at most in the pickle of a state dict, by operation, with a bit to spare.
OPERATIONS = 50  # 30 are usual
PER_TENSOR = {"TUPLE": 8, "REDUCE": 4, "BINPERSID": 1, "NEWOBJ": 1, "BUILD": 1}

NUMBERS = ["BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short"]
TYPES = [
    "bfloat16",
    "bool",
    "float16",
    "float32",
    "float64",
    "int16",
    "int32",
    "int64",
    "int8",
    "uint8",
]
CLASSES = {
    "__builtin__ set",
    "collections Counter",
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch.nn.parameter Parameter",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {number}Storage" for number in NUMBERS),
    *(f"torch {name}" for name in TYPES),
}


def read(path: Path) -> Any:
    """What a file holds, nearly always nested dicts of tensors; the tensors of a zip are mapped.

    Raises:
        WeightsError: it is damaged, or holds anything that state dicts are not made of.
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        return _read_zip(path) if zipped else _read_legacy(path)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise _no_state_dict(path, reason(error)) from None
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise WeightsError(
            f"{path} is no whole PyTorch file: {reason(error)}; fetch it again"
        ) from None


def _read_zip(path: Path) -> Any:
    found = {member.filename: member for member in zip.members(path)}
    top = next(iter(found)).partition("/")[0]  # as PyTorch finds it
    if f"{top}/constants.pkl" in found:
        raise WeightsError(
            f"{path} is a TorchScript program, which could run code, and is refused; "
            "save its state dict"
        )
    content = found.get(f"{top}/data.pkl")
    if content is None:
        raise WeightsError(f"{path} is a zip without {top[:100] + '/data.pkl'!r}; give weights")
    if content.file_size > MAX_PICKLE_BYTES:
        raise _too_much(path)
    with zipfile.ZipFile(path) as archive:
        _check_program(io.BytesIO(archive.read(content)), path, pickles=1)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


class _Legacy(io.BufferedReader):
    """A file to unpickle from; without a descriptor, or PyTorch would try it as a tar, too."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_PICKLE_BYTES:
            raise pickle.UnpicklingError(f"a piece of {size} bytes")
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(MAX_LINE)


def _read_legacy(path: Path) -> Any:
    with _Legacy(io.FileIO(path)) as file:
        _check_program(file, path, pickles=LEGACY_PICKLES)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def _check_program(file: IO[bytes], path: Path, *, pickles: int) -> None:
    """Read pickles without running them.

    Raises:
        WeightsError: they use more than state dicts are made of, or more of it.
    """
    used: Counter[str] = Counter()
    programs = (pickletools.genops(file) for _ in range(pickles))
    for count, (operation, argument, _) in enumerate(itertools.chain.from_iterable(programs)):
        used[operation.name.rstrip("123")] += 1
        if operation.name == "GLOBAL" and argument not in CLASSES:
            raise _unknown_class(path, str(argument).replace(" ", "."))
        if operation.name == "PROTO" and argument != PROTOCOL:
            raise WeightsError(
                f"{path} has pickle protocol {argument}, PyTorch's is {PROTOCOL}; save it again"
            )
        if count > OPERATIONS * MAX_TENSORS:
            raise _too_much(path)
    if any(used[name] > MAX_TENSORS * most for name, most in PER_TENSOR.items()):
        raise _too_much(path)


def _too_much(path: Path) -> WeightsError:
    return WeightsError(
        f"{path} is made of more parts than {MAX_TENSORS} tensors are; save its state dict alone"
    )


def _unknown_class(path: Path, name: str) -> WeightsError:
    if name.startswith("torch") and "Tensor" not in name:
        return WeightsError(
            f"{path} holds a tensor that is sparse, quantised, complex, empty or of a class of its "
            f"own ({name[:100]!r}); save it as a plain one"
        )
    return _no_state_dict(path, repr(name[:100]))


def _no_state_dict(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path} is damaged, or holds Python objects beside tensors ({what}), which could run code "
        "when read, and is refused; save its state dict alone, or as .safetensors"
    )
