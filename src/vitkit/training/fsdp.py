"""A model of which each rank has a part (FSDP2), and the whole state that is saved of it.

A state has the same form for any number of ranks, so that any other number can go on with it.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from vitkit.models.backbone import Backbone
from vitkit.models.deit import DeiT
from vitkit.training.distributed import Group
from vitkit.training.step import Learner


def shard(model: Backbone, group: Group) -> None:
    """Leave each rank its part of every tensor; blocks are put together one after the other."""
    mesh = init_device_mesh(next(model.parameters()).device.type, (group.ranks,))
    for name, module in model.named_modules():
        if re.fullmatch(model.block, name):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # as it is averaged afterwards
    if isinstance(model, DeiT):
        register_fsdp_forward_method(model, "forward_both")


def whole(tree: Any, *, keep: bool = True) -> Any:
    """A state with whole tensors on the CPU for shards; all ranks take part, some `keep` them."""
    if isinstance(tree, DTensor):
        full = tree.full_tensor()
        return full.cpu() if keep else None
    if isinstance(tree, dict):
        return {key: whole(value, keep=keep) for key, value in tree.items()}
    if isinstance(tree, list):
        return [whole(value, keep=keep) for value in tree]
    return tree


def in_shards(state: Mapping[str, Any], learner: Learner) -> dict[str, Any]:
    """The state of a run with this rank's parts of the tensors that its learner has in shards."""
    return {
        **state,
        "model": _of_model(state["model"], learner.model),
        "average": learner.average and _of_model(state["average"], learner.average.model),
        "optimizer": _of_optimizer(state["optimizer"], learner.optimizer),
    }


def _of_model(state: Mapping[str, Tensor], model: Backbone) -> dict[str, Tensor]:
    own = model.state_dict()
    return {name: _part(tensor, own.get(name)) for name, tensor in state.items()}


def _of_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parts = {
        number: {name: _part(value, parameters[number]) for name, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    return {**state, "state": parts}


def _part(value: Any, like: object) -> Any:
    """This rank's part of what has the shape of a sharded tensor; anything else as it is."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        value = value.to(like.device)
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value
