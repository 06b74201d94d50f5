"""The moving average of the weights, which predicts better than the weights themselves."""

import copy

import torch

from vitkit.models.backbone import Backbone


class WeightAverage:
    """Exponential moving average of a model's weights, kept in `model`, a copy of it.

    The decay is min(`decay`, (1 + t) / (10 + t)) after step t, so that a short run is not held back
    by its first weights.
    """

    def __init__(self, model: Backbone, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Backbone, step: int) -> None:
        """Move towards the model's weights after its `step`-th step, counted from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), weight)
