"""`vitkit doctor`."""

import importlib.metadata
import json
import platform
from typing import Any

import typer

import vitkit
from vitkit.cli.options import Json

EXTRAS = {
    "hub": ("datasets",),
    "serve": ("fastapi", "uvicorn", "prometheus-client", "python-multipart"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino", "nncf"),
}
NEEDED = (
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "huggingface-hub",
    "scikit-learn",
    "pydantic",
    "pyarrow",
)


def doctor(as_json: Json = False) -> None:
    """Say what is here, what is missing and how to get it."""
    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show(found)
    if found["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Versions by name, devices, extras with what they lack, and problems."""
    packages = {name: version(name) for name in NEEDED}
    problems = [f"{name} is missing; pip install {name}" for name, v in packages.items() if not v]
    devices: list[str] = []
    if packages["torch"]:
        devices = list_devices()
    return {
        "vitkit": vitkit.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "devices": devices,
        "extras": {extra: [n for n in names if not version(n)] for extra, names in EXTRAS.items()},
        "problems": problems,
    }


def list_devices() -> list[str]:
    """Each device with what it is good for."""
    import torch

    from vitkit.runtime.device import gains_from_bf16

    def describe(device: torch.device, name: str) -> str:
        return f"{device}: {name}, {'bf16' if gains_from_bf16(device) else 'fp32'} is fastest"

    cpu = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    devices = [describe(torch.device("cpu"), cpu)]
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        devices.append(describe(device, torch.cuda.get_device_name(device)))
    return devices


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def show(found: dict[str, Any]) -> None:
    """The findings as lines."""
    typer.echo(f"vitkit {found['vitkit']}, Python {found['python']}, {found['system']}")
    for name, installed in found["packages"].items():
        typer.echo(f"  {name:<16} {installed or 'missing'}")
    for device in found["devices"]:
        typer.echo(f"device  {device}")
    for extra, missing in found["extras"].items():
        remedy = f"missing; pip install 'vitkit[{extra}]'" if missing else "installed"
        typer.echo(f"extra   {extra:<9} {remedy}")
    for problem in found["problems"]:
        typer.echo(f"problem {problem}")
    if not found["problems"]:
        typer.echo("everything that vitkit needs is here")
