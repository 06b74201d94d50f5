"""What a step makes smaller."""

import torch.nn.functional as F
from torch import Tensor

from vitkit.training.distill import taught_loss
from vitkit.training.settings import TrainSettings


def loss_of(
    heads: tuple[Tensor, ...], targets: Tensor, taught: Tensor | None, settings: TrainSettings
) -> Tensor:
    """The loss of a batch: logits of each head, (B, K), and the shares that classes should get.

    Of two heads the first learns from the targets, the second from `taught`, a teacher's logits;
    one head learns from both (arXiv:2012.12877, eq. 2 and 3, with `distill.alpha` for 1/2).
    """
    logits = heads[0]
    if settings.loss == "bce":
        if settings.bce_threshold is not None:
            targets = (targets > settings.bce_threshold).to(targets.dtype)
        wanted = smoothed(targets, settings.label_smoothing)
        loss = F.binary_cross_entropy_with_logits(logits, wanted)
    else:
        loss = F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
    if taught is None:
        return loss
    alpha = settings.distill.alpha
    return (1 - alpha) * loss + alpha * taught_loss(heads[-1], taught, settings.distill)


def smoothed(targets: Tensor, share: float) -> Tensor:
    """Targets of which a `share` is spread over all classes (arXiv:1512.00567, section 7)."""
    return targets * (1 - share) + share / targets.shape[-1]
