"""A model ready for use: with its preprocessing and the names of its classes."""

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitkit.data.image import decode, from_pil, read_file
from vitkit.data.loader import default_workers, look_ahead
from vitkit.data.sources import Source
from vitkit.data.transforms import Preprocess
from vitkit.errors import CheckpointError, ConfigError, ImageError, nearest
from vitkit.explain.explanation import Explanation
from vitkit.explain.methods import METHODS, default_method, explain_batch
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone
from vitkit.progress import Listener, silent
from vitkit.runtime.device import Precision, choose_device
from vitkit.runtime.engine import Engine
from vitkit.weights import store
from vitkit.weights.hub import is_reference

LISTED = 8  # classes, at most, that a message names one by one
ImageLike = str | Path | bytes | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Score:
    """One class and the share that the model gives it, in [0, 1]."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best class, its share, and the best few."""

    label: str
    score: float
    topk: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Input:
    """One image of a source as the model takes it or, where it could not be read, `error`."""

    index: int
    pixels: NDArray[np.uint8] | None = None  # (C, h, w)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one input of a stream: `values` or, where it could not be read, `error`."""

    index: int
    values: NDArray[np.float32] | None = None  # probabilities (K,) or features (D,)
    error: str = ""


class Classifier:
    """A trained model that takes images as they come.

    `model` is in evaluation mode, `preprocess` makes its input from an RGB array, `classes` name
    its outputs. Images may be paths, encoded bytes, PIL images or RGB arrays (H, W, 3) uint8.
    """

    def __init__(
        self,
        model: Backbone,
        preprocess: Preprocess,
        classes: Sequence[str],
        *,
        architecture: str,
        origin: Path | None = None,
        notes: Sequence[str] = (),
        device: str = "auto",
        precision: Precision = "fp32",
        temperature: float = 1.0,
    ) -> None:
        self.architecture = architecture
        self.origin = origin  # the directory or file it was loaded from
        self.notes = tuple(notes)  # what was guessed of it, as the file does not say it
        self.preprocess = preprocess
        self.classes = list(classes)
        self.engine = Engine(
            model,
            preprocess,
            device=choose_device(device),
            precision=precision,
            temperature=temperature,
        )

    @property
    def model(self) -> Backbone:
        """The network itself, in evaluation mode."""
        return self.engine.model

    @property
    def temperature(self) -> float:
        """What logits are divided by where probabilities are made of them; 1 changes nothing."""
        return self.engine.temperature

    def predict(
        self, images: ImageLike | Iterable[ImageLike], topk: int = 5, *, batch_size: int = 32
    ) -> list[Prediction]:
        """The best classes of each image, in order.

        Raises:
            ImageError: an image cannot be read; the message says which.
            ConfigError: something else than an image, or `topk` or `batch_size` below 1.
        """
        batches = self._batches(images, batch_size)
        rows = (row for batch in batches for row in self.engine.probabilities(batch).numpy())
        return [self.prediction(row, topk) for row in rows]

    def embed(
        self, images: ImageLike | Iterable[ImageLike], *, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Pooled features of each image, before the head: (n, D).

        Raises:
            ImageError: an image cannot be read; the message says which.
            ConfigError: something else than an image, or `batch_size` below 1.
        """
        batches = [self.engine.features(b).numpy() for b in self._batches(images, batch_size)]
        empty = np.empty((0, self.model.num_features), np.float32)
        return np.concatenate(batches) if batches else empty

    def prediction(self, probabilities: NDArray[np.float32], topk: int) -> Prediction:
        """A prediction from one row of probabilities, (K,); all classes if `topk` is above K.

        Raises:
            ConfigError: `topk` is below 1, or the model has no classes.
        """
        if topk < 1:
            raise ConfigError(f"topk={topk} is less than 1; try 5")
        if not self.classes:
            raise ConfigError("the model has no head, so nothing to predict; use its features")
        best = np.argsort(-probabilities, kind="stable")[:topk]
        scores = tuple(Score(self.classes[i], float(probabilities[i])) for i in best)
        return Prediction(scores[0].label, scores[0].score, scores)

    def stream(
        self,
        source: Source,
        *,
        features: bool = False,
        batch_size: int = 32,
        workers: int | None = None,
    ) -> Iterator[Answer]:
        """Answers for every sample of a source, in order, in memory that does not grow with it.

        Threads decode what comes next while the model runs.
        """
        run = self.engine.features if features else self.engine.probabilities
        for chunk in self.inputs(source, batch_size=batch_size, workers=workers):
            arrays = [each.pixels for each in chunk if each.pixels is not None]
            rows = iter(run(torch.from_numpy(np.stack(arrays))).numpy() if arrays else ())
            for each in chunk:
                values = None if each.pixels is None else next(rows)
                yield Answer(each.index, values, each.error)

    def inputs(
        self, source: Source, *, batch_size: int = 32, workers: int | None = None
    ) -> Iterator[list[Input]]:
        """The samples of a source as the model takes them, in order, `batch_size` at a time.

        Threads decode what comes next.
        """
        workers = workers or default_workers()
        _check_batch_size(batch_size)

        def read(index: int) -> Input:
            try:
                return Input(index, self.preprocess.fit(source.read(index)))
            except ImageError as error:
                return Input(index, error=str(error))

        indices = range(len(source.samples))
        ahead = batch_size * 2 + workers
        waiting = look_ahead(read, indices, workers=workers, ahead=ahead)
        while chunk := list(islice(waiting, batch_size)):
            yield chunk

    def explain(
        self,
        image: ImageLike,
        method: str | None = None,
        target: str | None = None,
        *,
        against: str | None = None,
        **options: Any,
    ) -> Explanation:
        """What in one image speaks for a class: `target`, or the best one.

        `method` is one of `explain.methods.METHODS`, by default the model's own; with `against` the
        class is held against another one: what speaks for the first and not for the second. Other
        `options` are the method's, such as `layer=-1`.

        Raises:
            ImageError: the image cannot be read.
            ConfigError: an unknown method, option or class, or a method that the model is not for.
        """
        pixels = self.preprocess.fit(to_rgb(image))
        return self.explain_pixels(pixels, method, target, against=against, **options)

    def explain_pixels(
        self,
        pixels: NDArray[np.uint8],
        method: str | None = None,
        target: str | None = None,
        *,
        against: str | None = None,
        **options: Any,
    ) -> Explanation:
        """As `explain`, of a model input as `preprocess.fit` makes it: (C, h, w)."""
        name = method or default_method(self.model)
        batch = torch.from_numpy(pixels)[None]
        shares = self.engine.probabilities(batch)[0]
        label = int(shares.argmax()) if target is None else self.label_of(target)
        other = None if against is None else self.label_of(against)
        if label == other:
            raise ConfigError(f"against={against!r} is the target itself; choose another class")
        x = self.preprocess.normalise(batch.to(self.engine.device))
        asked = Target(
            torch.tensor([label], device=x.device),
            None if other is None else torch.tensor([other], device=x.device),
        )
        grid = explain_batch(self.model, x, name, asked, **options)[0].cpu().numpy()
        return Explanation(
            image=np.ascontiguousarray(
                np.broadcast_to(pixels.transpose(1, 2, 0), (*pixels.shape[1:], 3))
            ),
            grid=grid,
            method=name,
            label=self.classes[label],
            score=float(shares[label]),
            against=against or "",
            signed=METHODS[name].signed,
            for_class=METHODS[name].for_class,
            options=options,
        )

    def predict_pixels(self, pixels: NDArray[np.uint8], topk: int = 5) -> Prediction:
        """The best classes of one model input as `preprocess.fit` makes it: (C, h, w)."""
        return self.prediction(
            self.engine.probabilities(torch.from_numpy(pixels)[None])[0].numpy(), topk
        )

    def label_of(self, name: str) -> int:
        """The number of a class by its name or, where none has that name, its number as text.

        Raises:
            ConfigError: the model does not know it, and the nearest is named; or two have the name.
        """
        numbers = [number for number, known in enumerate(self.classes) if known == name]
        if len(numbers) > 1:
            listed = ", ".join(map(str, numbers))
            raise ConfigError(f"classes {listed} are called {name!r}; give one of these numbers")
        if not numbers and name.isdecimal() and len(name) < 9 and int(name) < len(self.classes):
            return int(name)
        if not numbers:
            hint = nearest(name, self.classes)
            known = f"it has {len(self.classes):,} classes" if self.classes else "it has no head"
            if 0 < len(self.classes) <= LISTED:
                known = f"it knows {', '.join(map(repr, self.classes))}"
            raise ConfigError(f"the model knows no class {name!r}{hint}; {known}")
        return numbers[0]

    def save(self, directory: str | Path) -> None:
        """Write a checkpoint directory that `vitkit.load` and timm's `local-dir:` open.

        Raises:
            CheckpointError: the directory exists and is not empty.
        """
        directory = Path(directory)
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise CheckpointError(f"{directory} exists and is not empty; choose another directory")
        directory.mkdir(parents=True, exist_ok=True)
        store.save(
            directory,
            self.model,
            architecture=self.architecture,
            classes=self.classes,
            preprocess=self.preprocess.to_timm(),
            temperature=self.temperature,
        )

    def _batches(
        self, images: ImageLike | Iterable[ImageLike], batch_size: int
    ) -> Iterator[Tensor]:
        _check_batch_size(batch_size)
        alone = isinstance(images, str | Path | bytes | Image.Image | np.ndarray)
        alone = alone or not isinstance(images, Iterable)  # and then no image: `to_rgb` says so
        several = enumerate(cast("Iterable[ImageLike]", [images] if alone else images))
        while chunk := list(islice(several, batch_size)):
            arrays = [self.preprocess.fit(_read(index, image)) for index, image in chunk]
            yield torch.from_numpy(np.stack(arrays))


def load(
    path: str | Path,
    *,
    model: str | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    listen: Listener = silent,
) -> Classifier:
    """A classifier from a run (its best weights), or from a checkpoint of any layout.

    A checkpoint is a directory of ours, timm's or Hugging Face's, a weights file, or
    `hf-hub:owner/name[@revision]`. `model` names the architecture where a weights file cannot say
    it and shapes do not tell.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        ConfigError: `model` is missing, or not what the checkpoint says of itself.
        WeightsError: its weights cannot be read or do not fit.
    """
    if not is_reference(path):
        path = store.best_of_run(Path(path))
    stored = store.load(path, model=model, listen=listen)
    try:
        preprocess = Preprocess.from_timm(stored.preprocess)
        if preprocess.channels != stored.config.in_channels:
            channels = f"{preprocess.channels} channels, the model {stored.config.in_channels}"
            raise ConfigError(f"input_size={stored.preprocess['input_size']} has {channels}")
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, ConfigError) else repr(error)
        raise CheckpointError(f"{path} has no preprocessing we know: {reason}") from None
    return Classifier(
        stored.build(),
        preprocess,
        stored.classes,
        architecture=stored.architecture,
        origin=path if isinstance(path, Path) else None,
        notes=stored.notes,
        device=device,
        precision=precision,
        temperature=stored.temperature,
    )


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} is less than 1; try 32")


def _read(index: int, image: ImageLike) -> NDArray[np.uint8]:
    """`to_rgb` with errors that say which image it was."""
    try:
        return to_rgb(image)
    except ImageError as error:
        name = image if isinstance(image, str | Path) else f"images[{index}]"
        raise ImageError(f"{name}: {error}") from error


def to_rgb(image: ImageLike) -> NDArray[np.uint8]:
    """Any kind of image that a caller may hold as an RGB array: -> (H, W, 3) uint8.

    Raises:
        ImageError: it cannot be read.
        ConfigError: it is none of the kinds taken.
    """
    if isinstance(image, (str, Path)):
        return decode(read_file(Path(image)))
    if isinstance(image, bytes):
        return decode(image)
    if isinstance(image, Image.Image):
        return from_pil(image)
    if not hasattr(image, "__array__"):
        raise ConfigError(
            f"{reprlib.repr(image)} is no image; give a path, bytes, a PIL image or an array"
        )
    array: Any = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ConfigError(
            f"an array of shape {array.shape} and type {array.dtype} is no image; "
            "give (H, W, 3) uint8 in RGB"
        )
    return np.ascontiguousarray(array)
