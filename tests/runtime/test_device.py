"""Which device and which precision are chosen, on machines that we only imagine."""

import pytest
import torch

from vitkit.errors import ConfigError
from vitkit.runtime import device as module
from vitkit.runtime.device import autocast, choose_device, gains_from_bf16

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def imagine_cuda(monkeypatch: pytest.MonkeyPatch, count: int, *, bf16: bool = True) -> None:
    """A machine with so many CUDA devices."""
    accelerator = CUDA if count else None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: accelerator
    )


@pytest.mark.parametrize(
    ("wanted", "count", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:0", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_choice(wanted: str, count: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imagine_cuda(monkeypatch, count)
    assert choose_device(wanted) == torch.device(expected)


@pytest.mark.parametrize(
    ("wanted", "count", "message"),
    [
        ("gpu", 1, "'gpu' is unknown; try auto, cpu or cuda:0"),
        ("", 1, "'' is unknown"),
        ("CPU", 1, "'CPU' is unknown"),
        ("cuda:x", 1, "'cuda:x' is unknown"),
        ("cuda", 0, "'cuda' needs a CUDA device, and there is none; try cpu"),
        ("cuda:0", 0, "'cuda:0' needs a CUDA device"),
        ("cuda:2", 2, "'cuda:2' is not there; this machine has 2 CUDA devices"),
        ("mps", 0, "'mps' is not there"),
        ("xpu:0", 1, "'xpu:0' is not there"),
        ("meta", 0, "'meta' is not there"),
    ],
)
def test_errors(wanted: str, count: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imagine_cuda(monkeypatch, count)
    with pytest.raises(ConfigError, match=f"^device={message}"):
        choose_device(wanted)


def test_another_accelerator_is_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    imagine_cuda(monkeypatch, 0)
    xpu = torch.device("xpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: xpu)
    assert choose_device("xpu") == xpu
    assert choose_device("auto") == CPU


def test_this_machine() -> None:
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_bf16_on_a_cpu(avx512: bool, amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert gains_from_bf16(CPU) is (avx512 or amx)


@pytest.mark.parametrize("bf16", [False, True])
def test_bf16_on_cuda(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    imagine_cuda(monkeypatch, 1, bf16=bf16)
    assert gains_from_bf16(CUDA) is bf16


def test_bf16_elsewhere() -> None:
    assert gains_from_bf16(torch.device("mps")) is False


@pytest.mark.parametrize(
    ("precision", "gains", "expected"),
    [
        ("fp32", True, torch.float32),
        ("fp32", False, torch.float32),
        ("bf16", True, torch.bfloat16),
        ("bf16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_autocast(
    precision: module.Precision,
    gains: bool,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "gains_from_bf16", lambda device: gains)
    x = torch.ones(4, 4)
    with autocast(CPU, precision):
        assert (x @ x).dtype == expected
    assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp8", "float32", ""])
def test_unknown_precision(precision: module.Precision) -> None:
    with pytest.raises(ConfigError, match=f"^precision='{precision}' is unknown; choose auto, fp"):
        autocast(CPU, precision)
