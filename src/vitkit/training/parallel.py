"""One model on many devices: a copy of it on each (DDP), or a part of every tensor (FSDP2).

What only shards need is in `fsdp.py`, whose import takes as long as torch's own.
"""

import contextlib
import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitkit.models.backbone import Backbone
from vitkit.training.distributed import Group


def alike(model: Backbone, group: Group) -> None:
    """Give every rank the first one's weights, and batch norms on CUDA the statistics of all."""
    if group.ranks == 1:
        return
    for tensor in model.state_dict().values():
        group.follow_first([tensor])
    if next(model.parameters()).device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def is_sharded(model: nn.Module) -> bool:
    """Whether this rank has but a part of the model's tensors."""
    return hasattr(model, "set_requires_gradient_sync")  # an FSDPModule


def averaging(network: nn.Module, model: Backbone, group: Group) -> nn.Module:
    """A network whose gradients are the means over all ranks; shards see to that themselves."""
    if group.ranks == 1 or is_sharded(model):
        return network
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False, "gradient_as_bucket_view": True}
    return DistributedDataParallel(network, **options)


def exchanging(
    network: object, model: Backbone, now: bool
) -> contextlib.AbstractContextManager[None]:
    """Forward and backward after which gradients are exchanged `now`, or with those to come."""
    if is_sharded(model):
        model.set_requires_gradient_sync(now)  # type: ignore[operator]
    elif isinstance(network, DistributedDataParallel) and not now:
        context: contextlib.AbstractContextManager[None] = network.no_sync()
        return context
    return contextlib.nullcontext()


def running_statistics(model: nn.Module) -> list[Tensor]:
    """What batch norms remember that each rank would have of its own images alone."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    both = [(norm.running_mean, norm.running_var) for norm in norms]
    return [tensor for pair in both for tensor in pair if tensor is not None]
