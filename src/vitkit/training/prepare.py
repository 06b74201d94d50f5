"""Everything that is decided before the first step: data, model, optimiser, device."""

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vitkit.data.audit import check_classes, check_counts
from vitkit.data.loader import Room
from vitkit.data.shards.source import ShardSource
from vitkit.data.sources import Source
from vitkit.data.transforms import Preprocess
from vitkit.models import build, find_config
from vitkit.models.backbone import Backbone, Config
from vitkit.progress import Listener, silent
from vitkit.runtime.device import autocast, choose_device
from vitkit.training import tune
from vitkit.training.config import AUTO, Resolved
from vitkit.training.dataset import open_data, to_train_on
from vitkit.training.distill import Teacher, load_teacher
from vitkit.training.distributed import SOLO, Group, check_device
from vitkit.training.doubts import doubts
from vitkit.training.ema import WeightAverage
from vitkit.training.logs import check_installed
from vitkit.training.memory import check_memory
from vitkit.training.optim import make_optimizer
from vitkit.training.parallel import alike, averaging
from vitkit.training.reading import room_for, settle_loading
from vitkit.training.settings import TrainSettings
from vitkit.training.step import Heads, Learner, Network
from vitkit.weights.pretrained import account, load_for


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is decided before the first step."""

    resolved: Resolved
    source: Source
    preprocess: Preprocess
    model: Backbone
    device: torch.device
    teacher: Teacher | None = None
    notes: tuple[str, ...] = ()  # what a person should know before it begins, as lines
    group: Group = SOLO  # those who train it together
    room: Room | None = None  # what memory is to hold of an image, where that had to be settled

    def doubts(self, images: int | None = None) -> list[str]:
        """What is likely to fail with so many images to train on, by default about those there."""
        settings, config = self.resolved.settings, self.model.config
        count = to_train_on(self.source, settings.data) if images is None else images
        return doubts(settings, config, count, self.device, self.group.ranks)


def prepare(
    data: str | Path | Source,
    resolved: Resolved,
    *,
    resume: bool = False,
    listen: Listener = silent,
    group: Group = SOLO,
) -> Prepared:
    """Check everything that can be checked without decoding an image.

    With `resume` the model is left as it is made: its weights are those of the run.

    Raises:
        ConfigError, DataError: settings or data that cannot work, or not together.
    """
    settings = resolved.settings
    source = open_data(data, settings.data)
    check_classes(source)
    if settings.data.val_fraction or settings.data.test_fraction:
        check_counts(source)
    overrides = {**settings.config_overrides, "num_classes": len(source.classes)}
    config = find_config(settings.architecture, **overrides)
    preprocess = Preprocess(
        image_size=config.image_size,
        crop=settings.data.crop,
        crop_mode=settings.data.crop_mode,
        interpolation=settings.data.interpolation,
        mean=settings.data.mean,
        std=settings.data.std,
    )
    resolved, room, loading = with_loading(resolved, source, preprocess, group)
    settings = resolved.settings
    device = choose_device(settings.device)
    autocast(device, settings.precision)  # so that a wrong one is found now
    check_installed(settings.log)
    check_device(device, group)
    check_memory(config, settings, device, group)
    teacher = None
    if settings.distill.teacher is not None:
        teacher = load_teacher(settings.distill.teacher, source.classes, preprocess, device)
    with own_state(settings):
        torch.manual_seed(settings.seed)
        model, notes = make_model(config, settings, source.classes, resume, listen)
    notes += [loading] if loading else []
    notes += ["the first step compiles, which may take minutes"] if settings.compile else []
    model = model.to(device)
    return Prepared(resolved, source, preprocess, model, device, teacher, tuple(notes), group, room)


def with_loading(
    resolved: Resolved, source: Source, preprocess: Preprocess, group: Group
) -> tuple[Resolved, Room | None, str | None]:
    """Settings that say how images are read, so that a resumed run does the same; and a note."""
    settings = resolved.settings
    if isinstance(source, ShardSource) or settings.data.loading != "auto":
        return resolved, None, None
    room = room_for(source, preprocess, settings)
    loading, line = settle_loading(room, source, settings.data, group)
    data = settings.data.model_copy(update={"loading": loading})
    origins = {**resolved.origins, "data.loading": AUTO}
    settings = settings.model_copy(update={"data": data})
    return replace(resolved, settings=settings, origins=origins), room, line


def make_model(
    config: Config,
    settings: TrainSettings,
    classes: Sequence[str],
    resume: bool,
    listen: Listener,
) -> tuple[Backbone, list[str]]:
    """The model with new weights, or those of `init` adapted; what of it learns; and what to say.

    A classifier of other classes is replaced.
    """
    notes: list[str] = []
    if settings.init is None or resume:
        model = build(config)
    else:
        stored = load_for(settings.architecture, settings.init, None, listen)
        model, adapted = stored.build_as(config)
        notes += account(settings.init, stored, config, adapted).splitlines()
        if len(stored.classes) == len(classes) and stored.classes != tuple(classes):
            model.reset_classifier(len(classes))
            notes.append("the classifier is new: the weights' classes differ in name or order")
    if settings.tune == "head":
        tune.head(model)
    elif settings.tune == "lora":
        tune.lora(model, rank=settings.lora.rank, alpha=settings.lora.alpha)
    model.set_grad_checkpointing(settings.checkpointing)
    return model, notes


@contextlib.contextmanager
def own_state(settings: TrainSettings) -> Iterator[None]:
    """Random numbers, threads and choice of kernels; the caller finds them as they were."""
    threads, fixed = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(settings.threads or threads)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by torch
        torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(fixed)


def make_learner(prepared: Prepared) -> Learner:
    """The model with its optimiser, weight average and teacher."""
    settings, model, group = prepared.resolved.settings, prepared.model, prepared.group
    alike(model, group)
    average = WeightAverage(model, settings.ema) if settings.ema else None
    plain = None
    if settings.parallel == "fsdp" and group.ranks > 1:
        from vitkit.training.fsdp import shard

        plain = copy.deepcopy(model).cpu() if group.first else None
        for whole in (model, average.model) if average is not None else (model,):
            shard(whole, group)
    optimizer = make_optimizer(
        model,
        name=settings.optimizer,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        momentum=settings.momentum,
        muon_lr=settings.muon_lr,
        kernel_lr=settings.kernel_lr,
        layer_decay=settings.layer_decay,
    )
    heads = Heads(model, taught=prepared.teacher is not None)
    if settings.compile:
        heads.compile(dynamic=False)  # batches have two sizes, which differ by one image
    network: Network = averaging(heads, model, group)
    return Learner(
        model=model,
        network=network,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(prepared.device.type, enabled=settings.precision == "fp16"),
        average=average,
        teacher=prepared.teacher,
        preprocess=prepared.preprocess,
        device=prepared.device,
        settings=settings,
        group=group,
        plain=plain,
    )
