"""What the families of convolutions share: maps that stages make ever smaller, and their mean."""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitkit.layers.norm import kept_statistics
from vitkit.models.backbone import Backbone, check_format, take

Block = Callable[[Tensor], Tensor]


class CNN(Backbone):
    """Stages of blocks, the mean of the last map, and a head: (B, C, H, W) -> (B, K).

    Any height and width are taken: each halving of a map rounds up.
    """

    @abstractmethod
    def stages(self) -> Sequence[Iterable[Block]]:
        """The blocks of each stage, the stem's first; what a stage ends with is a feature map."""

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map: (B, C, H, W) -> (B, D, h, w)."""
        for stage in self.stages():
            x = self.run_stage(stage, x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW"] = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """What stages give: (B, C, H, W) -> last map (B, D, h, w), [(B, D, h, w), ...].

        `indices` are stages, the stem's the first, negative ones from the end, or how many of the
        last. There is no last norm for `norm` to apply; `intermediates_only` leaves the last map
        out, and `stop_early` what comes after the last index.

        Raises:
            ConfigError: an index that there is not, or an unknown `output_fmt`.
        """
        check_format(output_fmt, ("NCHW",))
        stages = self.stages()
        chosen = take(indices, len(stages))
        maps = []
        for i, stage in enumerate(stages[: max(chosen) + 1] if stop_early else stages):
            x = self.run_stage(stage, x)
            if i in chosen:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Average the map and classify: (B, D, h, w) -> (B, K), or (B, D) with `pre_logits`.

        A map that is not to be averaged is classified place by place: -> (B, K, h, w).
        """
        x = x.mean(dim=(2, 3)) if self.pooled else x
        head = self.get_submodule(self.classifier)
        return x if pre_logits else head(x.movedim(1, -1)).movedim(-1, 1)

    def run_stage(self, stage: Iterable[Block], x: Tensor) -> Tensor:
        """One stage, block by block: (B, C, h, w) -> (B, D, h/2, w/2), or as large."""
        for block in stage:
            x = self.run_block(block, x)
        return x

    def run_block(self, block: Block, x: Tensor) -> Tensor:
        """`block(x)`, its activations kept for the backward pass or not.

        Batch norms take no notice of the second time: their statistics are those of plain training.
        """
        if not self.grad_checkpointing or not torch.is_grad_enabled():
            return block(x)
        if torch.compiler.is_compiling():  # its graph changes statistics once in any case
            return checkpoint(block, x, use_reentrant=False)
        return checkpoint(block, x, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[Any, Any]:
        """What surrounds a block the first time, and again in the backward pass."""
        return contextlib.nullcontext(), kept_statistics(self)


def he_normal(module: nn.Module) -> None:
    """Weights of a convolution of deviation sqrt(2 / fan-out), its bias zero (arXiv:1502.01852).

    Only the outputs of its own group count for an input.
    """
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        fan_out = height * width * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
