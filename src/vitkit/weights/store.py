"""Checkpoint directories: `model.safetensors` beside a `config.json` in timm's hub layout."""

import json
import pickle
import reprlib
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
from vitkit.models import build, find_config
from vitkit.models.backbone import Backbone, Config
from vitkit.weights.formats import timm
from vitkit.whole_file import replacing, sync

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

    def build(self) -> Backbone:
        """The model with these weights, in evaluation mode.

        A model that is larger than its tensors is refused before it takes memory.

        Raises:
            CheckpointError: settings that each are right but make no model together.
            WeightsError: a tensor is missing, unexpected, of another shape or of no float type.
        """
        numbers = sum(tensor.numel() for tensor in self.tensors.values())
        hopeless = self.config.least_parameters > numbers  # a hostile file may describe anything
        try:
            with torch.device("meta" if hopeless else "cpu"):  # meta takes no memory
                model = build(self.config)
        except ConfigError as error:
            raise CheckpointError(f"the checkpoint's model cannot be built: {error}") from None
        load_tensors(model, self.tensors)
        return model.eval()


def save(
    directory: Path,
    model: Backbone,
    *,
    architecture: str,
    classes: Sequence[str],
    preprocess: Mapping[str, Any],
) -> None:
    """Write a checkpoint into an existing directory; timm opens it with `local-dir:`.

    `preprocess` holds timm's `pretrained_cfg` keys. A model that timm cannot build is saved all the
    same, under a name that timm refuses. Both files are on the disk before either gets its name.

    Raises:
        CheckpointError: the disk does not take it.
    """
    description = describe(model.config, architecture, classes, preprocess)
    whole = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(directory / CONFIG) as config, replacing(directory / WEIGHTS) as weights:
        try:
            save_file(whole, weights, metadata={"format": "pt"})
        except SafetensorError as error:  # it wraps what the system says, such as a full disk
            raise CheckpointError(f"{directory} cannot be written: {error}; make room") from None
        config.write_text(json.dumps(description, indent=2) + "\n", "utf-8")
        sync(config)


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
        ConfigError: a weights file without `model`, or a directory of another one.
        WeightsError: the weights cannot be read.
    """
    if path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        path = path.parent
    if path.is_file():
        return _load_file(path, model)
    if not (path / CONFIG).is_file():
        raise CheckpointError(
            f"{path} holds no {CONFIG}; give a run or checkpoint directory, or a weights file"
        )
    try:
        cfg = json.loads((path / CONFIG).read_text("utf-8"))
        architecture = str(cfg["vitkit"]["architecture"]).partition(".")[0]
        settings = {**cfg["vitkit"]["model"], "num_classes": cfg["num_classes"]}
        config = find_config(architecture, **settings)
        classes = _class_names(cfg["label_names"], config.num_classes)
        preprocess = dict(cfg["pretrained_cfg"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        where = path / CONFIG
        raise CheckpointError(f"{where} describes no vitkit model: {kind}{error}") from None
    if model is not None and model.partition(".")[0] != architecture:
        raise ConfigError(
            f"{path} says itself that it is {architecture}, not {model}; leave the model out"
        )
    return Stored(
        architecture=architecture,
        config=config,
        tensors=read_tensors(path / WEIGHTS),
        classes=classes,
        preprocess=preprocess,
    )


def _class_names(names: Any, count: int) -> tuple[str, ...]:
    if not isinstance(names, list) or len(names) != count:
        raise ConfigError(f"label_names={reprlib.repr(names)} is no list of {count} names")
    return tuple(map(str, names))


def _load_file(path: Path, model: str | None) -> Stored:
    if model is None:
        raise ConfigError(
            f"{path} does not say which model it is of; "
            "name it with --model, or model=... in Python"
        )
    tensors = read_tensors(path)
    heads = [tensors[name] for name in ("head.bias", "head.fc.bias") if name in tensors]
    if heads and heads[0].ndim != 1:
        shape = tuple(heads[0].shape)
        raise WeightsError(f"{path} has a head with a bias of shape {shape}, not (classes,)")
    count = len(heads[0]) if heads else 0
    architecture = model.partition(".")[0]
    return Stored(
        architecture=architecture,
        config=find_config(model, num_classes=count),
        tensors=tensors,
        classes=tuple(map(str, range(count))),
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


def load_tensors(model: Backbone, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a model; every name and shape must agree.

    Raises:
        WeightsError: a tensor is missing, unexpected, of another shape or of no float type.
    """
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in own]
    both = [(name, tensors[name], own[name]) for name in own if name in tensors]
    problems += [
        f"{name} has shape {tuple(given.shape)}, not {tuple(wanted.shape)}"
        for name, given, wanted in both
        if given.shape != wanted.shape
    ]
    problems += [
        f"{name} has type {given.dtype}, which is no float"
        for name, given, _ in both
        if not given.is_floating_point()
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise WeightsError(f"the weights do not fit the model: {'; '.join(problems[:3])}{more}")
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"the weights cannot be copied into the model: {reason}") from None
