"""Batch norm, and how to pass one batch through it twice."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from vitkit.errors import ConfigError


class BatchNorm(nn.BatchNorm2d):
    """Normalise each channel over batch and map (arXiv:1502.03167): (B, D, h, w) -> the same.

    Raises:
        ConfigError: in training, one value for each channel, which has no deviation.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            raise ConfigError(
                "batch norm cannot learn from one image with a map of 1x1; "
                "use batches of two images or more, batch_size=4 for any number, or larger images"
            )
        return super().forward(x)


@contextlib.contextmanager
def kept_statistics(module: nn.Module) -> Iterator[None]:
    """While it lasts, batch norms in training normalise as ever but leave running statistics alone.

    For computing a batch again, which would otherwise count twice. The statistics still take part,
    with a momentum of zero, as autograd wants the same tensors both times.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
