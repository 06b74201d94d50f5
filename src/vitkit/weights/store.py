"""Checkpoints of any layout, read; ours, `model.safetensors` and a `config.json`, written too."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vitkit import __version__
from vitkit.errors import CheckpointError, ConfigError, WeightsError
from vitkit.layers.position import Resize
from vitkit.models import build, find_config
from vitkit.models.backbone import Backbone, Config
from vitkit.progress import Listener, silent
from vitkit.weights import hub
from vitkit.weights.adapt import Adapted, adapt
from vitkit.weights.describe import CONFIG, Told, describe_directory
from vitkit.weights.files import read_tensors, weights_in
from vitkit.weights.formats import detect, timm_config
from vitkit.weights.infer import recognise
from vitkit.weights.layout import Layout
from vitkit.whole_file import replacing, sync

WEIGHTS = "model.safetensors"

# Where a run keeps weights to predict with, the best first. The hidden one is left by a crash
# while `best` was being replaced.
OF_A_RUN = ("best", ".best.old", "last", "previous")
SETTINGS = "config.yaml"  # what a run writes first


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a checkpoint says of itself, with its tensors under our names."""

    architecture: str  # the nearest name from `list_models`
    config: Config
    tensors: dict[str, Tensor]
    classes: tuple[str, ...]
    preprocess: Mapping[str, Any]  # timm's `pretrained_cfg`
    source: str = "vitkit"  # whose layout it has
    left: Mapping[str, Tensor] = field(default_factory=dict)  # tensors that no model of ours needs
    resize: Resize = "bicubic_antialias"  # how its positions are brought to another grid
    notes: tuple[str, ...] = ()  # what was guessed
    size_is_told: bool = True  # the image size was not inferred
    temperature: float = 1.0  # that logits are divided by before the softmax

    def build(self) -> Backbone:
        """The model with these weights, in evaluation mode.

        Raises:
            CheckpointError: settings that each are right but make no model together.
            WeightsError: a tensor is missing, unexpected, of another shape or of no float type.
        """
        return self.build_as(self.config)[0]

    def build_as(self, target: Config) -> tuple[Backbone, Adapted]:
        """A model of another size with these weights, and what became of each tensor.

        A model that its tensors do not fit is refused before it takes memory.

        Raises:
            CheckpointError: settings that each are right but make no model together.
            WeightsError: a tensor is missing, unexpected, or of a shape that cannot be adapted.
        """
        try:
            adapted = adapt(
                self.tensors,
                self.config,
                target,
                left=self.left,
                resize=self.resize,
                sure=self.size_is_told,
            )
            model = build(target)
        except ConfigError as error:
            raise CheckpointError(f"the checkpoint's model cannot be built: {error}") from None
        load_tensors(model, adapted.tensors)
        return model.eval(), adapted


def load_tensors(model: Backbone, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors that fit into a model; those that it has besides stay as they are.

    Raises:
        WeightsError: they cannot be copied.
    """
    try:
        model.load_state_dict({**model.state_dict(), **tensors})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"the weights cannot be copied into the model: {reason}") from None


def load(
    path: str | Path,
    *,
    model: str | None = None,
    source: str | None = None,
    image_size: tuple[int, int] | None = None,
    listen: Listener = silent,
) -> Stored:
    """Read any checkpoint: a run, a directory, a weights file, or `hf-hub:owner/name[@revision]`.

    The layout of the tensors is recognised by their names; `source` overrides it. `model` names the
    architecture, and `image_size` (pixels, height and width) the size it was trained for, where the
    file does not say them; else they are inferred from shapes, which `Stored.notes` tells.

    Raises:
        CheckpointError: there is no checkpoint, or its `config.json` cannot be understood.
        ConfigError: another model than the checkpoint says itself, or an unknown `source`.
        WeightsError: the weights cannot be fetched, read or recognised.
    """
    fetched = hub.is_reference(path)
    path = hub.fetch(str(path), listen=listen) if fetched else best_of_run(Path(path))
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a run, a checkpoint or a weights file")
    if path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        path = path.parent
    undescribed = path.is_file() or (fetched and not (path / CONFIG).is_file())
    told = Told() if undescribed else describe_directory(path)
    if model is not None:
        told = _with_model(told, model, path)
    if image_size is not None:
        told = replace(told, settings={"image_size": image_size, **told.settings})
    tensors = read_tensors(path if path.is_file() else weights_in(path))
    if told.source == "vitkit" and told.architecture is not None and source is None:
        config = find_config(told.architecture, **told.settings)
        return Stored(
            architecture=told.architecture,
            config=config,
            tensors=tensors,
            classes=told.classes,
            preprocess=told.preprocess or {},
            temperature=told.temperature,
        )
    return translated(path, tensors, told, detect(tensors, source))


def translated(path: Path, tensors: Mapping[str, Tensor], told: Told, layout: Layout) -> Stored:
    """A checkpoint of another layout under our names; what it does not say is inferred.

    Raises:
        WeightsError: a tensor has no place in the layout, or there is no such model.
    """
    ours, left = layout.read(tensors)
    unknown = [name for name in left if not layout.ignores(name)]
    if unknown:
        more = f" (and {len(unknown) - 3} more)" if len(unknown) > 3 else ""
        names = ", ".join(unknown[:3])
        raise WeightsError(f"{path} holds {names}{more}, which {layout.source} has no place for")
    guess = recognise(ours, left, layout, told)
    classes = guess.config.num_classes
    architecture = told.architecture or guess.architecture
    return Stored(
        architecture=architecture,
        config=guess.config,
        tensors=ours,
        classes=told.classes if len(told.classes) == classes else tuple(map(str, range(classes))),
        preprocess=told.preprocess or preprocess_of(layout, architecture, guess.config),
        source=layout.source,
        left=left,
        resize=layout.resize,
        notes=guess.notes,
        size_is_told=told.architecture is not None or "image_size" in told.settings,
    )


def best_of_run(path: Path) -> Path:
    """The weights to predict with in a run's directory; any other path as it is.

    Raises:
        CheckpointError: it is a run that has none yet.
    """
    if not path.is_dir():  # of a name that is too long the system says that of itself
        return path
    found = next((path / name for name in OF_A_RUN if (path / name).is_dir()), path)
    if found == path and (path / SETTINGS).is_file() and not (path / CONFIG).is_file():
        raise CheckpointError(
            f"{path} is a run that has no weights yet; wait for its first checkpoint or, if it "
            f"stopped before, go on with `vitkit train DATA --resume --out {path}`"
        )
    return found


def _with_model(told: Told, model: str, path: Path) -> Told:
    architecture = model.partition(".")[0]
    family = type(find_config(architecture))
    if told.architecture not in (None, architecture):
        raise ConfigError(
            f"{path} says itself that it is {told.architecture}, not {model}; leave the model out"
        )
    return replace(told, architecture=architecture, family=family)


def preprocess_of(layout: Layout, architecture: str, config: Config) -> dict[str, Any]:
    """How images were prepared for weights in a layout, where nothing beside them says it."""
    usual = {**timm_config.published_preprocess(architecture), **layout.preprocess}
    return preprocess_for(usual, config)


def preprocess_for(preprocess: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The same for a model of another size or of other channels, which get the mean of those."""
    channels = config.in_channels
    changed = {
        key: [sum(preprocess[key]) / len(preprocess[key])] * channels
        for key in ("mean", "std")
        if key in preprocess and len(preprocess[key]) != channels
    }
    return {**preprocess, **changed, "input_size": [channels, *config.image_size]}


def save(
    directory: Path,
    model: Backbone,
    *,
    architecture: str,
    classes: Sequence[str],
    preprocess: Mapping[str, Any],
    temperature: float = 1.0,
) -> None:
    """Write a checkpoint into an existing directory; timm opens it with `local-dir:`.

    `preprocess` holds timm's `pretrained_cfg` keys; `temperature` is what logits are divided by
    before the softmax, of which timm knows nothing. A model that timm cannot build is saved all the
    same, under a name that timm refuses. Both files are on the disk before either gets its name.

    Raises:
        CheckpointError: the disk does not take it.
    """
    description = describe(model.config, architecture, classes, preprocess, temperature)
    whole = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_checkpoint(directory, whole, {CONFIG: description})


def write_checkpoint(
    directory: Path, tensors: Mapping[str, Tensor], descriptions: Mapping[str, Any]
) -> None:
    """Write `model.safetensors` and JSON files; all are on the disk before one gets its name.

    Raises:
        CheckpointError: the disk does not take it.
    """
    with contextlib.ExitStack() as files:
        for name, content in descriptions.items():
            file = files.enter_context(replacing(directory / name))
            file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
            sync(file)
        weights = files.enter_context(replacing(directory / WEIGHTS))
        try:
            save_file(dict(tensors), weights, metadata={"format": "pt"})
        except SafetensorError as error:  # it wraps what the system says, such as a full disk
            raise CheckpointError(f"{directory} cannot be written: {error}; make room") from None


def describe(
    config: Config,
    architecture: str,
    classes: Sequence[str],
    preprocess: Mapping[str, Any],
    temperature: float = 1.0,
) -> dict[str, Any]:
    """The content of `config.json`: timm's keys, and ours under `vitkit`."""
    try:
        timm_name, arguments = architecture, timm_config.model_args(architecture, config)
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
            **timm_config.structure(config),
        },
        "vitkit": {
            "version": __version__,
            "architecture": architecture,
            "model": timm_config.changes(architecture, config),
            "temperature": temperature,
        },
    }
