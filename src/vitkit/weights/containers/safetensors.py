"""`.safetensors`: a JSON header, then the numbers; mapped into memory, not read."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.weights.containers import MAX_TENSORS, reason

MAX_HEADER_BYTES = 4_000_000  # 500 for each of MAX_TENSORS; 120 are usual
LENGTH = 8  # bytes that say how long the header is
TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; the library checks that they fill it, one after the other.

    Raises:
        WeightsError: it is damaged, lies, or has too many tensors, or of another type than TYPES.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
    if length > size - LENGTH:
        raise WeightsError(
            f"{path} is no whole safetensors file: it has {size} bytes, and its header alone is "
            f"said to have {length}; fetch it again"
        )
    if length > MAX_HEADER_BYTES:
        raise WeightsError(
            f"{path} has a safetensors header of {length} bytes, over {MAX_HEADER_BYTES}; weights "
            "have a few thousand tensors at most"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as content:
            names = list(content.keys())
            if len(names) > MAX_TENSORS:
                raise WeightsError(f"{path} has {len(names)} tensors, over {MAX_TENSORS}")
            for name in names:
                if (kind := content.get_slice(name).get_dtype()) not in TYPES:
                    raise WeightsError(
                        f"{path} holds {name[:100]!r} as {kind}; save it as F32, F16 or BF16"
                    )
            return {name: content.get_tensor(name) for name in names}
    except WeightsError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path} is no whole safetensors file: {reason(error)}; fetch it again"
        ) from None
