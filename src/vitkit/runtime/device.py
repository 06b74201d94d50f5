"""Which device runs a model, and in which precision."""

import contextlib
from typing import Literal

import torch

from vitkit.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def choose_device(wanted: str = "auto") -> torch.device:
    """`auto` is the first CUDA device, or the CPU; other names are torch's: `cpu`, `cuda:1`.

    Raises:
        ConfigError: torch does not know the device, or the machine lacks it.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ConfigError(f"device={wanted!r} is unknown; try auto, cpu or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={wanted!r} needs a CUDA device, and there is none; try cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"device={wanted!r} is not there; this machine has {count} CUDA devices")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device.type not in ("cpu", "cuda", accelerator.type if accelerator else "cpu"):
        raise ConfigError(f"device={wanted!r} is not there; try auto, cpu or cuda:0")
    return device


def gains_from_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on this device."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":  # only where the processor multiplies bfloat16 itself
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def choose_precision(device: torch.device, wanted: Precision) -> Literal["fp32", "bf16", "fp16"]:
    """`auto` is bfloat16 where it is faster.

    Raises:
        ConfigError: an unknown precision.
    """
    if wanted not in ("auto", "fp32", "bf16", "fp16"):
        raise ConfigError(f"precision={wanted!r} is unknown; choose auto, fp32, bf16 or fp16")
    if wanted == "auto":
        return "bf16" if gains_from_bf16(device) else "fp32"
    return wanted


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """The context in which a model computes: 16 bits where asked for, bfloat16 where it is faster.

    Raises:
        ConfigError: an unknown precision.
    """
    chosen = choose_precision(device, precision)
    if chosen == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if chosen == "bf16" else torch.float16)
