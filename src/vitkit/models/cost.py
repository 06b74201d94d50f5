"""What a model costs for one image: multiply-accumulates, attention scores, memory to train it."""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from vitkit.models import build, find_config
from vitkit.models.backbone import Backbone, Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The size of one model, and what one image makes it compute and keep.

    `activation_bytes` counts what the forward pass keeps for the backward pass in float32: every
    block of memory once, the image too, but neither weights nor what dropout, stochastic depth and
    batch statistics add. It holds for explicit attention, which keeps its maps; fused kernels do
    without most of `attention_bytes`.
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
    """The cost of a published model.

    Raises:
        ConfigError: no model has this name.
    """
    return cost_of(find_config(name))


@functools.cache  # several names share one configuration
def cost_of(config: Config) -> Cost:
    """Count on torch's meta device, where nothing is computed or stored.

    Raises:
        ConfigError: settings that each are right but make no model together.
    """
    with torch.device("meta"):
        model = build(config).eval()
        image = torch.empty(1, config.in_channels, *config.image_size)
    taps = {
        name: Tap(module) for name, module in model.named_modules() if hasattr(module, "on_map")
    }
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
    layers = {name: tap.scores for name, tap in taps.items() if tap.scores}
    products = counter.get_flop_counts()
    return Cost(
        image_size=config.image_size,
        tokens=_tokens(config),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=counter.get_total_flops() // 2,
        attention_macs=sum(
            products[f"{type(model).__name__}.{name}"][torch.ops.aten.bmm] for name in layers
        )
        // 2,
        scores=tuple(layers.values()),
        attention_bytes=4 * sum(layers.values()),
        activation_bytes=sum(storage.nbytes() for storage in kept.values()),
    )


class Tap:
    """Counts the scores of a layer of self-attention.

    It listens to the maps, which also makes the layer compute them whatever kernel is fastest.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.scores = 0
        layer.on_map = self.listen

    def listen(self, maps: Tensor) -> None:
        queries, keys = maps.shape[-2:]
        self.scores += maps.numel() if queries == keys else 0  # a pool has one query


def _tokens(config: Config) -> int:
    height, width = getattr(config, "grid", (0, 0))
    prefix: int = getattr(config, "num_prefix_tokens", 0)
    return height * width + prefix


def stored_parameters(config: Config, tensors: Mapping[str, Tensor]) -> int:
    """Numbers in tensors of a checkpoint, without those that its model computes or tracks.

    Raises:
        ConfigError: settings that each are right but make no model together.
    """
    with torch.device("meta"):
        model: Backbone = build(config)
    others = {name for name, _ in model.named_buffers()}
    return sum(tensor.numel() for name, tensor in tensors.items() if name not in others)
