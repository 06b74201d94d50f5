"""Weights of any layout written in another one, so that its own library opens them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vitkit.errors import CheckpointError, ConfigError, WeightsError, nearest
from vitkit.models.backbone import Backbone, Config
from vitkit.models.vit import ViTConfig
from vitkit.weights import store
from vitkit.weights.describe import CONFIG, PREPROCESSOR
from vitkit.weights.formats import (
    huggingface_config,
    huggingface_preprocess,
    layout_for,
    timm_config,
)
from vitkit.weights.formats.torchvision import buffers
from vitkit.weights.store import Stored, write_checkpoint
from vitkit.whole_file import replacing

TARGETS = ("vitkit", "timm", "huggingface", "torchvision")
EPS = 1e-6  # of the norms of timm's and torchvision's ViTs
FILES = (".safetensors", ".pth", ".pt", ".bin")


def convert(stored: Stored, model: Backbone, destination: Path, to: str) -> None:
    """Write a model that came of `stored` for a library.

    A `destination` with the suffix of a weights file gets the tensors alone, otherwise it becomes a
    directory that the library opens; torchvision has no such directories.

    Raises:
        ConfigError: an unknown `to`, or a destination that is there or makes no sense.
        WeightsError: the library has no such model.
        CheckpointError: the disk does not take it.
    """
    check_destination(destination, to)
    tensors, descriptions = written(stored, model, to)
    if destination.suffix in FILES:
        write_file(destination, tensors)
    else:
        destination.mkdir(parents=True, exist_ok=True)
        write_checkpoint(destination, tensors, descriptions)


def check_destination(destination: Path, to: str) -> None:
    """Check what can be known before anything is read.

    Raises:
        ConfigError: an unknown `to`, or a destination that is there or makes no sense.
    """
    if to not in TARGETS:
        raise ConfigError(f"--to {to} is unknown{nearest(to, TARGETS)}; use {', '.join(TARGETS)}")
    alone = destination.suffix in FILES
    if to == "torchvision" and not alone:
        raise ConfigError(f"torchvision reads files; give {destination} the suffix .pth")
    if destination.exists() and (alone or not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"{destination} exists already; choose another destination")


def written(stored: Stored, model: Backbone, to: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in a library's layout, and the JSON files that describe them to it.

    Raises:
        WeightsError: the library has no such model.
    """
    config = model.config
    ours = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    classes = stored.classes if len(stored.classes) == config.num_classes else ()
    names = classes or tuple(map(str, range(config.num_classes)))
    preprocess = store.preprocess_for(stored.preprocess, config)
    temperature = temperature_of(stored, config)
    described = store.describe(config, stored.architecture, names, preprocess, temperature)
    if to == "vitkit":
        return ours, {CONFIG: described}
    if to == "timm":
        timm_config.model_args(stored.architecture, config)  # refuses what timm does not have
        return ours, {CONFIG: {key: described[key] for key in described if key != "vitkit"}}
    if to == "torchvision":
        refuse_numerics(config)
        return {**layout_for(to, config).write(ours, config), **buffers(config)}, {}
    theirs = layout_for(to, config).write(ours, config)
    if isinstance(config, ViTConfig) and huggingface_config.kind_of(config).startswith("dinov2"):
        theirs |= mask_token(stored, config)
    return theirs, {
        CONFIG: huggingface_config.write_config(config, names),
        PREPROCESSOR: huggingface_preprocess.write_preprocess(preprocess),
    }


def refuse_numerics(config: Config) -> None:
    """Refuse what torchvision would compute in another way.

    Raises:
        WeightsError: an activation or eps that it does not have.
    """
    if not isinstance(config, ViTConfig):
        return
    if config.activation != "gelu":
        raise WeightsError(f"torchvision has no ViT with activation={config.activation}")
    if config.norm_eps > timm_config.MOST_EPS:
        raise WeightsError(f"torchvision has no ViT with norm_eps={config.norm_eps}")


def mask_token(stored: Stored, config: ViTConfig) -> dict[str, Tensor]:
    """What stood for masked patches when DINOv2 was trained; zeros where that was lost."""
    name = f"{huggingface_config.kind_of(config)}.embeddings.mask_token"
    lost = torch.zeros(1, config.dim)
    return {name: stored.left.get("embeddings.mask_token", lost)}


def temperature_of(stored: Stored, config: Config) -> float:
    """The checkpoint's temperature, which a new head does not share."""
    return stored.temperature if stored.config.num_classes == config.num_classes else 1.0


def lost_temperature(stored: Stored, config: Config, to: str) -> str:
    """In words, that a library has no place for the temperature, where there is one."""
    temperature = temperature_of(stored, config)
    if to == "vitkit" or temperature == 1:
        return ""
    return f"temperature={temperature:.4g} is left out: divide the logits by it yourself"


def lost_numerics(config: Config, to: str) -> str:
    """In words, what a library computes a little otherwise than the weights were trained for."""
    eps = getattr(config, "norm_eps", EPS)
    if to in ("timm", "torchvision") and eps != EPS:
        return f"norm_eps={eps} becomes {EPS}, which is all that {to} has here"
    return ""


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors alone, as safetensors or as PyTorch does, by the suffix.

    Raises:
        CheckpointError: the disk does not take it.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            if path.suffix == ".safetensors":
                save_file(whole, temporary, metadata={"format": "pt"})
            else:
                torch.save(whole, temporary)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} cannot be written: {reason}; make room") from None
