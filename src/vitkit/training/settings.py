"""Every setting of a run, with its default, unit and range."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from vitkit.data.augment.pipeline import Augment
from vitkit.data.crop import RandomCrop
from vitkit.data.mix import Mix
from vitkit.runtime.device import Precision
from vitkit.training.every import RULE, Every

DEFAULT_MODEL = "vit_tiny_patch16_224"

Share = Annotated[float, Field(ge=0, lt=1)]
Portion = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Least0 = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _square(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


Size = Annotated[tuple[int, int], BeforeValidator(_square)]


def _list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Logs = Annotated[
    tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...], BeforeValidator(_list)
]


def _often(value: object) -> str | None:
    if value is not None and Every.parse(str(value)) is None:
        raise PydanticCustomError("every", RULE)
    return None if value is None else str(value)


Often = Annotated[str | None, BeforeValidator(_often)]


class Section(BaseModel):
    """A frozen group of settings that knows no others, each of exactly its type.

    Only lists become tuples, as YAML has no others, and numbers of NumPy become Python's.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,  # else true would pass for 1
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(cls._plain(one) for one in value)
        return value.item() if isinstance(value, np.generic) else value


class DataSettings(Section):
    """What is read, and how it becomes a model input."""

    image_size: Size | None = None  # pixels, one side or [height, width]; None: the model's
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0  # share that the centre crop keeps
    crop_mode: Literal["center", "squash"] = "center"  # squash gives up the image's proportions
    # how pixels are resized
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # of each channel, of values in [0, 1]; one for grey
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)  # by which each channel is divided after that
    val_fraction: Share = 0.1  # of the training images, where the data has no val split
    test_fraction: Share = 0.2  # of all images, where the data has no test split
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of each class's training images
    balanced: bool = False  # draw every class equally often
    max_unreadable: Portion = 0.01  # share of the images that may be skipped
    max_megapixels: Positive = 50.0  # of an image, from its header
    max_megabytes: Positive = 64.0  # of an image file
    memory_gb: Positive | None = None  # that decoded images may take; None: half of the memory
    # decode once, or for every epoch; or read shards in sequence, as those behind URLs always are
    loading: Literal["auto", "memory", "stream", "sequential"] = "auto"
    epoch_images: Count | None = None  # images that an epoch of shards in sequence shows; None: all
    shuffle_buffer: Count = 4096  # images of shards in sequence that are held to be drawn from
    classes: Count | tuple[str, ...] | None = None  # number or names, where shards tell neither
    workers: Count | None = None  # processes that decode; None: one per core


class AugmentSettings(Section):
    """What is done to training images at random; see `data/augment`."""

    mirror: bool = True  # left to right, half of the images
    shift: Share = 0.125  # share of the side that an image moves by at most
    scale: tuple[Portion, Portion] | None = None  # area of a random-resized crop; None: none
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)  # width to height of that crop
    # operations on colours and shape, drawn for every image
    policy: Literal["none", "randaugment", "trivialaugment", "three_augment"] = "none"
    num_ops: Count = 2  # operations of RandAugment for an image
    magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0  # of RandAugment, 0 to 10
    magnitude_std: Least0 = 0.5  # deviation of that magnitude
    jitter: Least0 = 0.0  # brightness, contrast and saturation change by this factor at most
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # turn of the colour circle at most
    erase: Portion = 0.0  # probability that a rectangle becomes noise
    repeats: Count = 1  # times that an image comes in a row, an epoch having as many images
    until: Portion = 1.0  # share of the run after which only mirror, shift and scale go on

    def pipeline(self, *, late: bool = False) -> Augment:
        """The changes of a batch; `late` ones come after the share `until` of a run."""
        given = self.model_dump(exclude={"scale", "ratio", "repeats", "until"})
        strong = {"policy": "none", "jitter": 0.0, "hue": 0.0, "erase": 0.0} if late else {}
        return Augment(**{**given, **strong})

    @property
    def crop(self) -> RandomCrop | None:
        """The random-resized crop, which comes before."""
        return None if self.scale is None else RandomCrop(self.scale, self.ratio)


class MixSettings(Section):
    """How images of a batch are mixed, and their labels with them; see `data/mix.py`."""

    mixup: Least0 = 0.0  # alpha of the Beta distribution of an image's share; 0: none
    cutmix: Least0 = 0.0  # the same of its share of the area
    probability: Portion = 1.0  # of mixing at all
    switch: Portion = 0.5  # probability of CutMix, where both are on
    mode: Literal["batch", "pair", "elem"] = "batch"  # who has one share: all, two partners, each
    until: Portion = 1.0  # share of the run after which nothing is mixed

    def mixer(self) -> Mix:
        """The mixing of a batch."""
        return Mix(**self.model_dump(exclude={"until"}))


class DistillSettings(Section):
    """What a teacher adds to the loss (arXiv:2012.12877, section 4)."""

    teacher: str | None = None  # a checkpoint; None: no teacher
    kind: Literal["hard", "soft"] = "hard"  # learn the teacher's choice, or its probabilities
    alpha: Portion = 0.5  # the teacher's share of the loss
    temperature: Positive = 3.0  # at which probabilities are learned, of the soft kind


class LoraSettings(Section):
    """Low-rank adapters (arXiv:2106.09685), for tune=lora."""

    rank: Count = 8  # rows of each adapter
    alpha: Positive = 16.0  # the adapters' product is scaled by alpha / rank


class CheckpointSettings(Section):
    """When a run is saved."""

    every: Often = None  # "500 steps", "10 minutes", "1 epoch"; None: as often as is cheap

    @property
    def often(self) -> Every | None:
        """The same, read."""
        return None if self.every is None else Every.parse(self.every)


class TrainSettings(Section):
    """One training run."""

    recipe: str | None = None  # name or .yaml of settings that belong together; none: defaults
    model: dict[str, Any] = {"name": DEFAULT_MODEL}  # `name`; once resolved, its config's fields
    init: str | None = None  # a checkpoint to start from; None: random weights
    data: DataSettings = DataSettings()
    augment: AugmentSettings = AugmentSettings()
    mix: MixSettings = MixSettings()
    distill: DistillSettings = DistillSettings()
    tune: Literal["all", "head", "lora"] = "all"  # what of the model learns
    lora: LoraSettings = LoraSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    epochs: Count = 30  # times that every image is shown
    minutes: Positive | None = None  # of reading, training and scoring; then epochs do not count
    batch_size: Count = 128  # images to a step of the optimiser
    accumulate: Count = 1  # parts that a batch is computed in
    parallel: Literal["ddp", "fsdp"] = "ddp"  # of many ranks each has the model, or a part of it
    optimizer: Literal["adamw", "lamb", "sgd", "muon"] = "adamw"  # muon: AdamW for all but matrices
    lr: Positive = 1e-3  # the highest learning rate
    muon_lr: Positive | None = None  # that of muon's matrices; None: lr
    kernel_lr: Positive | None = None  # that of convolutions among them; None: muon_lr
    min_lr: Least0 = 1e-5  # at the end
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # how the rate falls
    warmup_epochs: Least0 = 2.0  # half of the run at most
    cooldown_epochs: Least0 = 0.0  # at the end, at min_lr
    weight_decay: Least0 = 0.05  # of matrices only; decoupled, but for sgd, as is usual there
    betas: tuple[Share, Share] = (0.9, 0.999)  # of adamw and lamb
    momentum: Share | None = None  # of sgd and muon; None: 0.9 and 0.95
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the rate, from layer to layer down
    loss: Literal["ce", "bce"] = "ce"  # cross-entropy of all classes, or of each by itself
    bce_threshold: Share | None = None  # a class with a larger share is wholly there; None: shares
    label_smoothing: Share = 0.1  # share of a target that is spread over all classes
    clip_grad: Least0 = 1.0  # norm of the gradient; 0: no limit
    ema: Share = 0.999  # decay of the weight average that is evaluated; 0: none
    max_bad_steps: Count = 20  # in a row whose loss or gradient is not finite, each left out
    log: Logs = ()  # what gets a copy of every row of figures
    precision: Precision = "auto"  # auto: bf16 where it is faster
    compile: bool = False  # by torch.compile: minutes at the start, then faster steps on a GPU
    checkpointing: bool = False  # compute activations twice, keep few of them
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: the fastest there is
    deterministic: bool = False  # kernels that repeat their results to the bit, also on a GPU
    threads: Count | None = None  # of the CPU; None: torch's own choice
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # of weights, order, splits and augmentation

    @property
    def architecture(self) -> str:
        """The published name of the model."""
        return str(self.model["name"])

    @property
    def config_overrides(self) -> dict[str, Any]:
        """The fields of the model's configuration, but for the number of classes."""
        overrides = {key: value for key, value in self.model.items() if key != "name"}
        overrides["in_channels"] = len(self.data.mean)
        if self.data.image_size is not None:
            overrides["image_size"] = self.data.image_size
        return overrides
