"""A run from data to a finished directory: read, split, build, train, evaluate."""

import contextlib
import datetime
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from vitkit import __version__
from vitkit.classifier import Classifier, load
from vitkit.data import split as splits
from vitkit.data.audit import LISTED, DataSummary, check_unreadable, summarise
from vitkit.data.loader import read_all
from vitkit.data.sources import Source, open_source
from vitkit.data.transforms import Preprocess
from vitkit.errors import CheckpointError, ConfigError, DataError
from vitkit.evaluation.metrics import Evaluation, evaluate_predictions
from vitkit.models import Model, build, find_config
from vitkit.progress import Listener, Progress, silent
from vitkit.runtime.device import autocast, choose_device
from vitkit.runtime.engine import Engine
from vitkit.training.checkpoint import Position, load_state, recover, replacing, save_state
from vitkit.training.config import Resolved, resolve
from vitkit.training.ema import WeightAverage
from vitkit.training.loop import Examples, Learner, Row, fit, predictions
from vitkit.training.optim import adamw
from vitkit.weights import store

CONFIG, ENVIRONMENT, METRICS = "config.yaml", "env.json", "metrics.jsonl"
SPLIT, EVALUATION = "split.csv", "evaluation.json"


@dataclass(frozen=True, slots=True)
class Run:
    """A run's directory and what its epochs reached."""

    directory: Path
    finished: bool = True  # False: interrupted, and can be resumed

    @property
    def metrics(self) -> list[Row]:
        """One row for each epoch, as in `metrics.jsonl`."""
        path = self.directory / METRICS
        return [json.loads(line) for line in whole_lines(path)]

    @property
    def evaluation(self) -> Evaluation | None:
        """The scores on the held-out split, once the run is finished."""
        path = self.directory / EVALUATION
        if not path.is_file():
            return None
        fields = json.loads(path.read_text("utf-8"))
        return Evaluation.from_json({key: fields[key] for key in fields if key != "split"})

    def load(self, *, device: str = "auto") -> Classifier:
        """The best weights, ready for use."""
        return load(self.directory, device=device)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is decided before the first step."""

    resolved: Resolved
    source: Source
    preprocess: Preprocess
    model: Model
    device: torch.device


@dataclass(frozen=True, slots=True)
class Dataset:
    """The decoded images and their splits."""

    splits: list[str]  # of every sample of the source
    examples: dict[str, Examples]  # "train", "val" and "test", perhaps empty; readable images only
    summary: DataSummary


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run with what its report shows."""

    run: Run
    prepared: Prepared
    dataset: Dataset
    split: str = ""  # the one that was evaluated, "" where none was
    evaluation: Evaluation | None = None
    probabilities: NDArray[np.float32] | None = None  # (n, K), of that split's rows


def prepare(data: str | Path, resolved: Resolved) -> Prepared:
    """Check everything that can be checked without decoding an image.

    Raises:
        ConfigError, DataError: settings or data that cannot work, or not together.
    """
    settings = resolved.settings
    source = open_source(
        data,
        max_pixels=round(settings.data.max_megapixels * 1e6),
        max_bytes=round(settings.data.max_megabytes * 1e6),
    )
    overrides = {**settings.model_overrides, "num_classes": len(source.classes)}
    overrides["in_channels"] = len(settings.data.mean)
    if settings.data.image_size is not None:
        overrides["image_size"] = settings.data.image_size
    config = find_config(settings.architecture, **overrides)
    preprocess = Preprocess(
        image_size=config.image_size,
        crop=settings.data.crop,
        interpolation=settings.data.interpolation,
        mean=settings.data.mean,
        std=settings.data.std,
    )
    device = choose_device(settings.device)
    autocast(device, settings.precision)  # so that a wrong one is found now
    torch.manual_seed(settings.seed)
    return Prepared(resolved, source, preprocess, build(config).to(device), device)


def train(
    data: str | Path,
    resolved: Resolved,
    *,
    directory: Path,
    resume: bool = False,
    listen: Listener = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train in a new directory, or go on in it with `resume`; `stop` is asked after every step.

    Raises:
        ConfigError, DataError, CheckpointError: with one line that says what to change.
    """
    with own_state(resolved.settings.threads):
        prepared = prepare(data, resolved)
        check_directory(directory, resume)
        dataset = read_dataset(prepared, directory, resume, listen)
        if not resume:
            write_start(directory, prepared, dataset, data)
        finished = train_prepared(prepared, dataset, directory, resume, listen, stop)
        run = Run(directory, finished)
        return evaluate_run(run, prepared, dataset) if finished else Outcome(run, prepared, dataset)


@contextlib.contextmanager
def own_state(threads: int | None) -> Iterator[None]:
    """Random numbers and threads that the caller finds afterwards as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        torch.set_num_threads(before)


def check_directory(directory: Path, resume: bool) -> None:
    """Check that a run may use a directory: a new one, or with `resume` one that holds a run.

    Raises:
        CheckpointError: something else is there, or nothing to resume.
    """
    recover(directory / "last")
    recover(directory / "best")
    if resume and not (directory / CONFIG).is_file():
        raise CheckpointError(f"{directory} holds no run; leave --resume out to start one")
    if not resume and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(
            f"{directory} exists already; choose another --out, or go on with --resume"
        )


def read_dataset(prepared: Prepared, directory: Path, resume: bool, listen: Listener) -> Dataset:
    """Decode all images and decide, or read from an earlier start, which split each belongs to.

    Raises:
        DataError: too many images are unreadable, or none is left to train on.
    """
    source, settings = prepared.source, prepared.resolved.settings
    memory = read_all(
        source,
        prepared.preprocess,
        memory_gb=settings.data.memory_gb,
        workers=settings.data.workers,
        listen=listen,
    )
    check_unreadable(memory.unreadable, len(source.samples), limit=settings.data.max_unreadable)
    chosen = choose_splits(prepared, memory.keys, directory, resume)
    labels = torch.tensor([sample.label or 0 for sample in source.samples])
    examples = {}
    for name in ("train", "val", "test"):
        rows = [i for i, split in enumerate(chosen) if split == name and memory.keys[i] is not None]
        examples[name] = Examples(memory.images, labels, torch.tensor(rows, dtype=torch.int64))
    if not len(examples["train"]):
        raise DataError(f"{source.name} leaves no image to train on; lower data.test_fraction")
    summary = summarise(source, chosen, memory.keys, memory.unreadable)
    announce(summary, {name: len(part) for name, part in examples.items()}, listen)
    return Dataset(chosen, examples, summary)


def announce(summary: DataSummary, sizes: Mapping[str, int], listen: Listener) -> None:
    """Tell how many images each split has, and the first that were left out."""
    figures = {name: f"{size:,}" for name, size in sizes.items()}
    if summary.unreadable:
        figures["unreadable"] = f"{len(summary.unreadable):,}"
    total = sum(sizes.values())
    listen(Progress("images", total, total, figures=figures, final=True))
    for name, reason in summary.unreadable[:LISTED]:
        listen(Progress("left out", total, total, figures={f"{name}:": reason}, final=True))


def choose_splits(
    prepared: Prepared, keys: Sequence[bytes | None], directory: Path, resume: bool
) -> list[str]:
    """The split of every sample, as the run was started with or new; images alike stay together."""
    source, settings = prepared.source, prepared.resolved.settings
    if resume:
        saved = splits.load_split(directory / SPLIT)
        return splits.match_split(source.samples, source.classes, saved)
    return splits.resolve(
        source.samples,
        keys,
        val=settings.data.val_fraction,
        test=settings.data.test_fraction,
        seed=settings.seed,
    )


def write_start(directory: Path, prepared: Prepared, dataset: Dataset, data: str | Path) -> None:
    """The split, the environment and, as the mark of a run, the configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    source = prepared.source
    labels = (source.classes[sample.label or 0] for sample in source.samples)
    names = (sample.name for sample in source.samples)
    splits.save_split(directory / SPLIT, zip(names, labels, dataset.splits, strict=True))
    environment = {"data": str(data), **describe_environment(prepared.device)}
    (directory / ENVIRONMENT).write_text(json.dumps(environment, indent=2) + "\n", "utf-8")
    (directory / CONFIG).write_text(prepared.resolved.to_yaml(), "utf-8")


def describe_environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware, as a report names them."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "vitkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.platform(),
        "device": f"{device} ({name})" if name else str(device),
        "threads": str(torch.get_num_threads()),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def train_prepared(
    prepared: Prepared,
    dataset: Dataset,
    directory: Path,
    resume: bool,
    listen: Listener,
    stop: Callable[[], bool],
) -> bool:
    """Train from the beginning or from `last/`, saving after every epoch; False if stopped."""
    settings = prepared.resolved.settings
    learner = make_learner(prepared)
    position = Position()
    if resume and (directory / "last").is_dir():
        position = load_state(directory / "last", learner.model, learner.optimizer)
        if learner.average is not None:
            store.load_tensors(learner.average.model, store.load(directory / "last").tensors)
    keep_metrics(directory / METRICS, position.step)

    def save(name: str, with_state: bool) -> None:
        with replacing(directory / name) as fresh:
            store.save(
                fresh,
                learner.predictor,
                architecture=settings.architecture,
                classes=prepared.source.classes,
                preprocess=prepared.preprocess.to_timm(),
            )
            if with_state:
                save_state(fresh, learner.model, learner.optimizer, position)

    def on_epoch(row: Row, is_best: bool) -> None:
        with open(directory / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if is_best:
            save("best", with_state=False)
        save("last", with_state=True)

    train, val = dataset.examples["train"], dataset.examples["val"]
    finished = fit(learner, train, val, position, on_epoch=on_epoch, listen=listen, stop=stop)
    if not finished:
        save("last", with_state=True)
    return finished


def make_learner(prepared: Prepared) -> Learner:
    """The model with its optimiser and weight average."""
    settings = prepared.resolved.settings
    return Learner(
        model=prepared.model,
        optimizer=adamw(
            prepared.model,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
        ),
        average=WeightAverage(prepared.model, settings.ema) if settings.ema else None,
        preprocess=prepared.preprocess,
        device=prepared.device,
        settings=settings,
    )


def keep_metrics(path: Path, step: int) -> None:
    """Drop the rows of epochs that a resumed run will train again, and one that was cut off."""
    if path.is_file():
        kept = [line for line in whole_lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(kept), "utf-8")


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that were written to their end."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
    return [line for line in lines if line.endswith("\n")]


def evaluate_run(run: Run, prepared: Prepared, dataset: Dataset) -> Outcome:
    """Score the best weights on the test split, or on val where there is no test split."""
    split = next((name for name in ("test", "val") if len(dataset.examples[name])), "")
    if not split:
        return Outcome(run, prepared, dataset)
    examples = dataset.examples[split]
    model = load(run.directory, device=str(prepared.device)).model
    engine = Engine(model, prepared.preprocess, device=prepared.device)
    probabilities = torch.cat(list(predictions(engine, examples))).numpy()
    labels = examples.labels[examples.rows].numpy()
    evaluation = evaluate_predictions(probabilities, labels, prepared.source.classes)
    samples = zip(prepared.source.samples, dataset.splits, strict=True)
    inside = {sample.name for sample, of in samples if of == split}
    unreadable = tuple(entry for entry in dataset.summary.unreadable if entry[0] in inside)
    evaluation = replace(evaluation, unreadable=unreadable)
    text = json.dumps({"split": split, **evaluation.to_json()}, indent=2)
    (run.directory / EVALUATION).write_text(text + "\n", "utf-8")
    return Outcome(run, prepared, dataset, split, evaluation, probabilities)


def resumed_settings(directory: Path, overrides: Sequence[str] | Mapping[str, Any]) -> Resolved:
    """The settings that a run was started with.

    Raises:
        CheckpointError: they are absent or damaged.
        ConfigError: the overrides would change them.
    """
    try:
        saved: Any = yaml.safe_load((directory / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{directory} holds no run to resume: {reason}") from None
    if not isinstance(saved, dict):
        raise CheckpointError(f"{directory / CONFIG} holds no settings; start a new run")
    before = resolve(saved=saved)
    known = {row.key: row for row in before.rows()}
    for row in resolve(overrides, saved=saved).rows():
        old = known.get(row.key)
        if old is None or row.value != old.value:
            raise ConfigError(
                f"{row} differs from the run, which has {old or 'its default'}; "
                "leave it out to resume, or start a new run"
            )
    return before
