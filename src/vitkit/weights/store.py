"""Checkpoint directories: `model.safetensors` beside a `config.json` in timm's hub layout."""

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitkit import __version__
from vitkit.errors import CheckpointError, ConfigError, WeightsError
from vitkit.models import Config, Model, build, find_config
from vitkit.weights.formats import timm

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
WRAPPERS = ("model_ema", "state_dict_ema", "model", "state_dict")  # where training scripts put it
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a checkpoint says of itself, with its tensors."""

    architecture: str  # a name from `list_models`
    config: Config
    tensors: dict[str, Tensor]
    classes: tuple[str, ...]
    preprocess: Mapping[str, Any]  # timm's `pretrained_cfg`

    def build(self) -> Model:
        """The model with these weights, in evaluation mode.

        Raises:
            WeightsError: a tensor is missing, unexpected or of another shape.
        """
        model = build(self.config)
        load_tensors(model, self.tensors)
        return model.eval()


def save(
    directory: Path,
    model: Model,
    *,
    architecture: str,
    classes: Sequence[str],
    preprocess: Mapping[str, Any],
) -> None:
    """Write a checkpoint into an existing directory; timm opens it with `local-dir:`.

    `preprocess` holds timm's `pretrained_cfg` keys. A model that timm cannot build is saved all the
    same, under a name that timm refuses. Both files are written to the end before they get their
    names.
    """
    description = describe(model.config, architecture, classes, preprocess)
    whole = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(whole, directory / f"{WEIGHTS}.tmp", metadata={"format": "pt"})
    (directory / f"{CONFIG}.tmp").write_text(json.dumps(description, indent=2) + "\n", "utf-8")
    for name in (WEIGHTS, CONFIG):
        # safetensors' own mode shuts out everyone else
        (directory / f"{name}.tmp").chmod(0o644)
        _sync(directory / f"{name}.tmp")
    for name in (WEIGHTS, CONFIG):
        os.replace(directory / f"{name}.tmp", directory / name)


def describe(
    config: Config, architecture: str, classes: Sequence[str], preprocess: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `config.json`: timm's keys, and ours under `vitkit`."""
    try:
        timm_name, arguments = architecture, timm.model_args(architecture, config)
    except WeightsError:
        timm_name, arguments = f"vitkit_{architecture}", {}
    return {
        "architecture": timm_name,
        "num_classes": config.num_classes,
        "num_features": config.num_features,
        "label_names": list(classes),
        "model_args": {key: arguments[key] for key in arguments if key != "num_classes"},
        "pretrained_cfg": {
            **preprocess,
            "num_classes": config.num_classes,
            "fixed_input_size": True,
            **timm.head_names(architecture, config),
        },
        "vitkit": {
            "version": __version__,
            "architecture": architecture,
            "model": timm.changes(architecture, config),
        },
    }


def load(path: Path, *, model: str | None = None) -> Stored:
    """Read a checkpoint directory, or a weights file that `model` names the architecture of.

    Raises:
        CheckpointError: there is no checkpoint, or its `config.json` cannot be understood.
        WeightsError: the weights cannot be read.
    """
    if path.is_file():
        return _load_file(path, model)
    if not (path / CONFIG).is_file():
        raise CheckpointError(
            f"{path} holds no {CONFIG}; give a run or checkpoint directory, or a weights file"
        )
    try:
        cfg = json.loads((path / CONFIG).read_text("utf-8"))
        ours = {  # JSON has no tuples
            key: tuple(value) if isinstance(value, list) else value
            for key, value in cfg["vitkit"]["model"].items()
        }
        architecture = str(cfg["vitkit"]["architecture"])
        config = find_config(architecture, **{**ours, "num_classes": cfg["num_classes"]})
        classes = tuple(str(name) for name in cfg["label_names"])
        if len(classes) != config.num_classes:
            raise ConfigError(f"{len(classes)} label_names for num_classes={config.num_classes}")
        preprocess = dict(cfg["pretrained_cfg"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ConfigError) else repr(error)
        raise CheckpointError(f"{path / CONFIG} describes no vitkit model: {reason}") from None
    return Stored(
        architecture=architecture,
        config=config,
        tensors=read_tensors(path / WEIGHTS),
        classes=classes,
        preprocess=preprocess,
    )


def _load_file(path: Path, model: str | None) -> Stored:
    if model is None:
        raise ConfigError(f"{path} does not say which model it is of; name it with --model")
    tensors = read_tensors(path)
    heads = [tensors[name] for name in ("head.bias", "head.fc.bias") if name in tensors]
    count = len(heads[0]) if heads else 0
    config = find_config(model, num_classes=count)
    classes = tuple(str(index) for index in range(count))
    architecture = model.partition(".")[0]
    return Stored(
        architecture=architecture,
        config=config,
        tensors=tensors,
        classes=classes,
        preprocess=timm.published_preprocess(architecture),
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file, on the CPU.

    Nothing is ever unpickled that could run code. Wrappers that training scripts put around a state
    dict are taken off, averaged weights first.

    Raises:
        WeightsError: the file is absent, damaged, of another kind, or holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    if path.suffix == ".safetensors":
        try:
            return _unwrap(load_file(path, device="cpu"), path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is no whole safetensors file: {error}") from None
    if path.suffix not in (".pth", ".pt", ".bin"):
        raise WeightsError(f"{path} is of no known kind; use .safetensors, .pth, .pt or .bin")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} is damaged, or holds Python objects beside tensors, which could run code when "
            "read, and is refused; save its state dict alone, or as .safetensors"
        ) from None
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise WeightsError(f"{path} is no whole PyTorch file: {reason}") from None
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds a {type(content).__name__}, not named tensors")
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path} holds {name!r}, which is no tensor, among its weights")
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        tensors[name] = value
    return tensors


def load_tensors(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a model; every name and shape must agree.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in own]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise WeightsError(f"the weights do not fit the model: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(dict(tensors))


def _sync(path: Path) -> None:
    """Make sure that a file's bytes are on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
