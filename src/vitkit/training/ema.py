"""The moving average of the weights, which predicts better than the weights themselves."""

import copy

import torch

from vitkit.models.backbone import Backbone


class WeightAverage:
    """Exponential moving average of a model's weights, kept in `model`, a copy of it.

    The decay is min(`decay`, (1 + t) / (10 + t)) after step t, so that a short run is not held back
    by its first weights. Running statistics of batch norms are averaged likewise, as timm does;
    whole numbers, such as a count of batches, are copied.
    """

    def __init__(self, model: Backbone, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Backbone, step: int) -> None:
        """Move towards the model's weights after its `step`-th step, counted from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        ours: list[torch.Tensor] = list(self.model.parameters())
        theirs: list[torch.Tensor] = list(model.parameters())
        for mine, now in zip(self.model.buffers(), model.buffers(), strict=True):
            if mine.is_floating_point():
                ours.append(mine)
                theirs.append(now)
            else:
                mine.copy_(now)
        torch._foreach_lerp_(ours, theirs, weight)
