"""What every model offers, under timm's names, to code that trains it or takes it as a backbone."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from vitkit.errors import ConfigError
from vitkit.layers.init import truncated_normal


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The fields that every family's configuration has."""

    image_size: tuple[int, int] = (224, 224)  # pixels, height and width
    in_channels: int = 3
    num_classes: int = 1000  # 0: no head, the pooled features come out

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        raise AssertionError("every family has its own")


class Checkpointed(nn.Module):
    """A part of a model whose blocks can forget their activations until the backward pass."""

    grad_checkpointing = False

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """`block(x)`, its activations kept for the backward pass or not."""
        if self.grad_checkpointing and is_grad_enabled():
            out: Tensor = checkpoint(block, x, use_reentrant=False)
        else:
            out = block(x)
        return out


class Backbone(Checkpointed, ABC):
    """Images to logits, (B, C, H, W) -> (B, K), by way of features that others can use.

    `feature_info` says of every map that `forward_intermediates` gives its width (`num_chs`), the
    pixels of the image to one of its own (`reduction`), and the `module` it comes out of.
    """

    config: Config
    feature_info: list[dict[str, Any]]
    classifier: ClassVar[str] = "head"  # the module that makes logits of pooled features
    block: ClassVar[str] = (
        r"blocks\.\d+"  # a pattern that every block's name, and no other, matches
    )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.num_features, self.num_classes = config.num_features, config.num_classes
        self.pooled = True

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """The last features, before they are pooled."""

    @abstractmethod
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool features and classify: -> (B, K), or (B, D) with `pre_logits`."""

    @abstractmethod
    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Features of several depths as maps, (B, D, h, w), with the last features before them."""

    @property
    def global_pool(self) -> str:
        """timm's word for how features are pooled; empty where they are not."""
        return "avg" if self.pooled else ""

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Every module that makes logits of features."""
        return (self.classifier,)

    def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]:
        """The head, or both of a model with two."""
        heads = tuple(self.get_submodule(name) for name in self.classifiers)
        return heads if len(heads) > 1 else heads[0]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head with a new one for `num_classes`; 0 removes it.

        An empty `global_pool` leaves features unpooled from now on; the model's own brings that
        back.

        Raises:
            ConfigError: another `global_pool`, for which the model has no weights.
        """
        if global_pool is not None:
            pooled, self.pooled = self.pooled, True
            own = self.global_pool
            self.pooled = pooled if global_pool not in ("", own) else bool(global_pool)
            if global_pool not in ("", own):
                raise ConfigError(
                    f"global_pool={global_pool!r} is not how this model pools; "
                    f"choose {own!r}, or '' for features that are not pooled"
                )
        self.config = replace(self.config, num_classes=num_classes)
        self.num_classes = num_classes
        for name in self.classifiers:
            self.set_submodule(name, self.new_head(num_classes))

    def new_head(self, num_classes: int) -> nn.Module:
        """A fresh linear classifier beside the other weights: (..., D) -> (..., K)."""
        if num_classes == 0:
            return nn.Identity()
        head = nn.Linear(self.num_features, num_classes).to(next(self.parameters()))
        truncated_normal(head)
        return head

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, besides vectors, that weight decay should leave alone."""
        return set()

    def layer_of_parameters(self) -> dict[str, int]:
        """Where each parameter stands: 0 for the embedding, 1 to L for blocks, L + 1 for the heads.

        What leads to a block counts to it, the last norm to the last block, and what pools to the
        heads. timm counts likewise.
        """
        names = [name for name, _ in self.named_parameters()]
        found = {name: match[0] for name in names if (match := re.match(self.block, name))}
        blocks = list(dict.fromkeys(found.values()))
        layer, layers = len(blocks) + 1, {}
        for name in reversed(names):  # which come in the order of the forward pass
            if name in found:
                layer = blocks.index(found[name]) + 1
            elif name.startswith("norm."):
                layer = len(blocks)
            elif layer <= 1 and not name.startswith(self.classifiers):
                layer = 0
            layers[name] = layer
        return layers

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only what blocks take in, and compute the rest again in the backward pass.

        Less memory for about a third more time (arXiv:1604.06174).
        """
        for module in self.modules():
            if isinstance(module, Checkpointed):
                module.grad_checkpointing = enable


def take(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Which of `count` features are meant: all for None, the last n for n, or those listed.

    Raises:
        ConfigError: one that there is not.
    """
    if indices is None:
        return list(range(count))
    listed = range(-indices, 0) if isinstance(indices, int) else indices
    if not listed or not all(-count <= index < count for index in listed):
        raise ConfigError(f"indices={indices} is not among {count} features; try -1 or {count - 1}")
    return [index % count for index in listed]


def check_format(output_fmt: str, known: Sequence[Literal["NCHW", "NLC"]]) -> None:
    """Refuse a form of features that a family does not give.

    Raises:
        ConfigError: it is not known.
    """
    if output_fmt not in known:
        raise ConfigError(f"output_fmt={output_fmt!r} is unknown here; use {' or '.join(known)}")
