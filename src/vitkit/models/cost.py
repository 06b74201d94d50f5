"""What a model costs for one image: multiply-accumulates, attention scores, memory to train it.

All of it is counted on torch's meta device, where nothing is computed or stored.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from vitkit.models import build, find_config, source
from vitkit.models.backbone import Backbone, Checkpointed, Config


@dataclass(frozen=True, slots=True)
class Cost:
    """The size of one published model."""

    name: str
    parameters: int
    macs: int  # multiply-accumulates of matrix products and convolutions, for one image
    image_size: tuple[int, int]  # pixels, height and width
    source: str

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one image makes a model compute and keep.

    `activation_bytes` counts what the forward pass keeps for the backward pass in float32: every
    block of memory once, the image too, but neither weights nor masks of dropout. It holds for
    explicit attention, which keeps its maps; fused kernels do without `attention_bytes`.
    """

    image_size: tuple[int, int]  # pixels, height and width
    tokens: int  # that enter the first block; 0 in a model of convolutions
    parameters: int
    macs: int  # multiply-accumulates of matrix products and convolutions
    attention_macs: int  # those between tokens: the part that grows with their number squared
    scores: tuple[int, ...]  # numbers in the attention maps of each layer of self-attention
    attention_bytes: int  # all of these in float32
    activation_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


def cost(name: str) -> Cost:
    """The size of a published model.

    Raises:
        ConfigError: no model has this name.
    """
    config = find_config(name)
    parameters, macs = _count(config)
    return Cost(
        name=name,
        parameters=parameters,
        macs=macs,
        image_size=config.image_size,
        source=source(name),
    )


@functools.cache
def _count(config: Config) -> tuple[int, int]:
    """Parameters and multiply-accumulates; several names share one configuration."""
    model, image = _without_memory(config)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        repeats = Repeats(counter)
        for module in model.modules():
            if isinstance(module, Checkpointed):
                module.run_block = repeats.run_block  # type: ignore[method-assign]  # of this one
        model(image)
    return _parameters(model), (counter.get_total_flops() + repeats.flops) // 2


class Repeats:
    """Runs a block once, and adds up what others like it would take: most time goes into those."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.counter = counter
        self.known: dict[Any, tuple[Tensor, int]] = {}
        self.flops = 0

    def run_block(self, block: Any, x: Tensor) -> Tensor:
        """What `block` gives, or what one of the same shapes gave."""
        if not isinstance(block, nn.Module):
            out: Tensor = block(x)
            return out
        shapes = tuple((name, weight.shape) for name, weight in block.named_parameters())
        kind = (type(block), shapes, x.shape)
        if kind in self.known:
            out, flops = self.known[kind]
            self.flops += flops
        else:
            before = self.counter.get_total_flops()
            out = block(x)
            self.known[kind] = out, self.counter.get_total_flops() - before
        return out


@functools.cache
def footprint(config: Config) -> Footprint:
    """Run a model once with a look at everything that it computes and keeps.

    Raises:
        ConfigError: settings that each are right but make no model together.
    """
    model, image = _without_memory(config)
    taps = {name: Tap(layer) for name, layer in model.named_modules() if hasattr(layer, "on_map")}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other gets its number

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        model(image)
    for tensor in (*model.parameters(), *model.buffers()):
        kept.pop(tensor.untyped_storage()._cdata, None)
    layers = {f"{type(model).__name__}.{name}": tap.scores for name, tap in taps.items()}
    layers = {name: scores for name, scores in layers.items() if scores}
    products = counter.get_flop_counts()
    return Footprint(
        image_size=config.image_size,
        tokens=_tokens(config),
        parameters=_parameters(model),
        macs=counter.get_total_flops() // 2,
        attention_macs=sum(products[name][torch.ops.aten.bmm] for name in layers) // 2,
        scores=tuple(layers.values()),
        attention_bytes=4 * sum(layers.values()),
        activation_bytes=sum(storage.nbytes() for storage in kept.values()),
    )


class Tap:
    """Counts the scores of a layer of self-attention.

    It listens to the maps, which also makes the layer compute them whatever kernel is fastest.
    """

    def __init__(self, layer: Any) -> None:
        self.scores = 0
        layer.on_map = self.listen

    def listen(self, maps: Tensor) -> None:
        """Add the scores of one map, (windows, H, N, N)."""
        queries, keys = maps.shape[-2:]
        self.scores += maps.numel() if queries == keys else 0  # a pool has one query


def stored_parameters(config: Config, tensors: Mapping[str, Tensor]) -> int:
    """Numbers in tensors of a checkpoint, without those that its model computes or tracks.

    Raises:
        ConfigError: settings that each are right but make no model together.
    """
    others = {name for name, _ in _without_memory(config)[0].named_buffers()}
    return sum(tensor.numel() for name, tensor in tensors.items() if name not in others)


def _without_memory(config: Config) -> tuple[Backbone, Tensor]:
    """A model and one image of it on the meta device."""
    with torch.device("meta"):
        return build(config).eval(), torch.empty(1, config.in_channels, *config.image_size)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _tokens(config: Config) -> int:
    height, width = getattr(config, "grid", (0, 0))
    prefix: int = getattr(config, "num_prefix_tokens", 0)
    return height * width + prefix
