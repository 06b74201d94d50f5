"""The same model, run fast: batches of pixels in, probabilities or features out."""

import torch
from torch import Tensor

from vitkit.data.transforms import Preprocess
from vitkit.models.backbone import Backbone
from vitkit.runtime.device import Precision, autocast


class Engine:
    """A model in evaluation mode with the normalisation it needs, on one device.

    Takes uint8 batches as `Preprocess.fit` makes them, (B, C, h, w), from any device.

    Raises:
        ConfigError: an unknown precision.
    """

    def __init__(
        self,
        model: Backbone,
        preprocess: Preprocess,
        *,
        device: torch.device,
        precision: Precision = "fp32",
    ) -> None:
        self.model = model.to(device).eval()
        self.preprocess = preprocess
        self.device = device
        autocast(device, precision)  # so that a wrong one is found now
        self.precision = precision

    @torch.inference_mode()
    def probabilities(self, batch: Tensor) -> Tensor:
        """The share that each class gets: (B, C, h, w) uint8 -> (B, K) float32 on the CPU."""
        with autocast(self.device, self.precision):
            logits: Tensor = self.model(self._input(batch))
        return logits.float().softmax(dim=-1).cpu()

    @torch.inference_mode()
    def features(self, batch: Tensor) -> Tensor:
        """Pooled features: (B, C, h, w) uint8 -> (B, D) float32 on the CPU."""
        with autocast(self.device, self.precision):
            tokens = self.model.forward_features(self._input(batch))
            pooled = self.model.forward_head(tokens, pre_logits=True)
        return pooled.float().cpu()

    def _input(self, batch: Tensor) -> Tensor:
        return self.preprocess.normalise(batch.to(self.device))
