"""Settings that can be computed but are known to end badly: what to say before they do."""

from math import inf

import torch

from vitkit.models import FAMILIES
from vitkit.models.backbone import Config
from vitkit.models.cnn import CNN
from vitkit.models.cost import footprint
from vitkit.models.deit import DeiTConfig
from vitkit.training.auto import TRAINING, flops
from vitkit.training.settings import TrainSettings

NARROWEST_HEAD = 32  # of a width that is trained from scratch
CPU = torch.device("cpu")
HIGHEST_RATES = {"adamw": 5e-3, "muon": 1e-2, "sgd": 1.0}  # for a transformer
FEWEST_STEPS = 20  # in which anything is learned


def doubts(
    settings: TrainSettings,
    config: Config,
    images: int,
    device: torch.device = CPU,
    ranks: int = 1,
) -> list[str]:
    """What is likely to fail, why, and what to set instead; a line for each."""
    found = []
    if settings.init is None:
        found += narrow_heads(config)
    most = HIGHEST_RATES.get(settings.optimizer, inf)
    is_cnn = issubclass(FAMILIES[type(config)], CNN) and settings.optimizer != "sgd"
    if settings.lr > most and settings.tune == "all" and not is_cnn:
        found.append(
            f"lr={settings.lr:g} is more than {settings.optimizer} bears: transformers stop "
            f"learning at {2 * most:g}; try lr={most / 5:g}"
        )
    if settings.batch_size > images > 0:  # 0: not counted
        found.append(
            f"batch_size={settings.batch_size} makes an epoch of {images:,} images one step; "
            f"try batch_size={max(images // 8, 1)}"
        )
    parts = settings.accumulate * ranks
    if settings.batch_size < 2 * parts and (settings.mix.mixup or settings.mix.cutmix):
        found.append(
            f"batch_size={settings.batch_size} leaves parts of one image, which has no partner to "
            f"be mixed with; try batch_size={2 * parts}"
        )
    found += short_of_time(settings, config, device, ranks)
    if settings.layer_decay < 1 and settings.init is None:
        found.append(
            f"layer_decay={settings.layer_decay:g} is for weights that have learned before; give "
            "--init CKPT, or take --recipe small"
        )
    if settings.tune != "all" and settings.init is None:
        found.append(
            f"tune={settings.tune} leaves a model at its random weights; give --init CKPT, or set "
            "tune=all"
        )
    untaught = settings.distill.teacher is None and settings.init is None
    if isinstance(config, DeiTConfig) and untaught:
        found.append(
            f"{settings.architecture} has a head for a teacher; give one by --teacher CKPT"
        )
    return found


def short_of_time(
    settings: TrainSettings, config: Config, device: torch.device, ranks: int
) -> list[str]:
    """Whether the time is about enough for the fewest steps."""
    if settings.minutes is None:
        return []
    image = TRAINING * footprint(config).macs / flops(device, settings) / ranks
    steps = 60 * settings.minutes / (image * settings.batch_size)
    if steps >= FEWEST_STEPS:
        return []
    size = max(int(settings.batch_size * steps / FEWEST_STEPS), 1)
    return [
        f"minutes={settings.minutes:g} are about {max(round(steps), 1)} steps of batch_size="
        f"{settings.batch_size}, too few, and one may outlast them; try batch_size={size}"
    ]


def narrow_heads(config: Config) -> list[str]:
    """Heads that are too narrow to learn: of the only width, or of each stage's."""
    heads: int | tuple[int, ...] | None = getattr(config, "num_heads", None)
    if heads is None:
        return []
    staged = isinstance(heads, tuple)
    dims: tuple[int, ...] = config.dims if staged else (config.dim,)  # type: ignore[attr-defined]
    numbers = heads if isinstance(heads, tuple) else (heads,)
    fits = tuple(
        most_heads(dim) if number > most_heads(dim) else number
        for dim, number in zip(dims, numbers, strict=True)
    )
    if fits == numbers:
        return []
    width = min(dim // number for dim, number in zip(dims, numbers, strict=True))
    before, after = (",".join(map(str, counts)) for counts in (numbers, fits))
    if staged:
        before, after = f"[{before}]", f"[{after}]"
    return [
        f"model.num_heads={before} leaves heads a width of {width}, and they need "
        f"{NARROWEST_HEAD}; try model.num_heads={after}"
    ]


def most_heads(dim: int) -> int:
    """The most heads of a width to learn with that divide `dim`; one at least."""
    most = max(dim // NARROWEST_HEAD, 1)
    return next(number for number in range(most, 0, -1) if dim % number == 0)
