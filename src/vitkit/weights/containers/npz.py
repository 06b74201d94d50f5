"""`.npz`: a zip of NumPy arrays, as Google publishes its vision transformers."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any
from zipfile import ZipInfo

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.weights.containers import reason, zip

COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # `numpy.savez` and `savez_compressed`
MAX_HEADER = 1_000  # characters that describe one array; 80 are usual
CHUNK = 1 << 20  # bytes unpacked at a time


def read(path: Path) -> dict[str, Tensor]:
    """The arrays of a file under their names, slashes and all; nothing in it is unpickled.

    Raises:
        WeightsError: it is damaged, is a zip bomb, holds something else than arrays of numbers, or
            arrays of another size than it says.
    """
    tensors = {}
    try:
        found = zip.members(path, compressions=COMPRESSIONS)
        with zipfile.ZipFile(path) as archive:
            for member in found:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    tensors[name] = _tensor(file, member, f"{path} holds {name[:100]!r}")
    except WeightsError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise zip.damaged(path, error) from None
    return tensors


def _tensor(file: IO[bytes], member: ZipInfo, where: str) -> Tensor:
    try:
        shape, fortran_order, dtype = _header(file)
        kind = _number_type(dtype)
    except WeightsError as error:
        raise WeightsError(f"{where} {error}") from None
    except Exception as error:  # NumPy evaluates the header, which raises nearly anything
        raise WeightsError(
            f"{where}, which is no whole array: {reason(error)}; save it again"
        ) from None
    room = member.file_size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != room:
        raise WeightsError(
            f"{where} of shape {str(shape)[:60]} and type {dtype}, in {room} bytes; save it again"
        )
    data = np.empty(room, np.uint8)
    for start in range(0, room, CHUNK):
        data[start : start + CHUNK] = np.frombuffer(file.read(min(CHUNK, room - start)), np.uint8)
    file.read(1)  # the end, where the checksum is compared
    array: NDArray[Any] = data.view(kind)
    if not dtype.isnative:
        array.byteswap(inplace=True)
    array = array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype.kind == "V" else tensor


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type."""
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file, max_header_size=MAX_HEADER)
    if version == (2, 0):
        return npy.read_array_header_2_0(file, max_header_size=MAX_HEADER)
    raise ValueError(f"version {version} is for arrays of records")


def _number_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type to read the bytes as, in this machine's order.

    NumPy has no bfloat16 and writes it as two bytes without a meaning, which big_vision reads back
    as bfloat16. So do we; its bits are kept as an integer until they are PyTorch's.
    """
    if dtype.hasobject:
        raise WeightsError(
            "as pickled Python objects, which could run code when read, and is refused; save plain "
            "arrays of numbers"
        )
    if dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None and dtype.shape == ():
        return np.dtype(np.int16)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise WeightsError(f"as {str(dtype)[:60]!r}, which is no number; save it as float32")
    return dtype.newbyteorder("=")
