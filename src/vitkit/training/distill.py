"""A teacher, and what a student's loss has of it (arXiv:2012.12877, section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.classifier import load
from vitkit.data.transforms import Preprocess
from vitkit.errors import ConfigError
from vitkit.models.backbone import Backbone
from vitkit.runtime.device import autocast
from vitkit.training.settings import DistillSettings


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model in evaluation mode that sees the student's own batches, in its own normalisation.

    It computes in bfloat16 where that is faster.
    """

    model: Backbone
    preprocess: Preprocess
    order: Tensor  # (K,) which of its outputs each of the student's classes is
    device: torch.device

    @torch.no_grad()
    def __call__(self, x: Tensor, preprocess: Preprocess) -> Tensor:
        """Its logits of a batch that is normalised for the student: (B, C, h, w) -> (B, K)."""
        size = self.preprocess.image_size
        x = self.preprocess.renormalise(x, preprocess)
        if x.shape[-2:] != size:
            shrinks = size[0] < x.shape[-2] or size[1] < x.shape[-1]  # else it makes no difference
            x = F.interpolate(x, size, mode="bilinear", antialias=shrinks)
        with autocast(self.device, "auto"):
            logits: Tensor = self.model(x)
        return logits.float()[:, self.order]


def load_teacher(
    path: str, classes: Sequence[str], preprocess: Preprocess, device: torch.device
) -> Teacher:
    """The teacher from any checkpoint of ours.

    Raises:
        ConfigError: it knows other classes, or takes another number of channels.
        CheckpointError, WeightsError: it cannot be read.
    """
    classifier = load(path, device=str(device))
    known = {name: index for index, name in enumerate(classifier.classes)}
    missing = [name for name in classes if name not in known]
    more = [name for name in known if name not in set(classes)]
    if missing or more:
        whose, name = ("the teacher does not know", missing) if missing else ("only it knows", more)
        raise ConfigError(
            f"distill.teacher={path} has other classes than the data: {whose} {name[0]!r}"
            f"{f' and {len(name) - 1} more' if name[1:] else ''}; "
            "train the teacher on the same classes"
        )
    if classifier.preprocess.channels != preprocess.channels:
        raise ConfigError(
            f"distill.teacher={path} takes {classifier.preprocess.channels} channels, the student "
            f"{preprocess.channels}; set data.mean and data.std to as many values"
        )
    order = torch.tensor([known[name] for name in classes], device=device)
    return Teacher(classifier.model, classifier.preprocess, order, device)


def taught_loss(student: Tensor, teacher: Tensor, settings: DistillSettings) -> Tensor:
    """How far a student's logits, (B, K), are from its teacher's: the mean over the batch.

    Hard: cross-entropy with the class that the teacher chose (eq. 3). Soft: tau^2 times the
    divergence of the distributions at temperature tau (eq. 2).
    """
    if settings.kind == "hard":
        return F.cross_entropy(student, teacher.argmax(dim=-1))
    tau = settings.temperature
    ours, theirs = ((logits / tau).log_softmax(dim=-1) for logits in (student, teacher))
    return tau**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
