"""The same model, run fast: batches of pixels in, probabilities or features out."""

import torch
from torch import Tensor

from vitkit.data.transforms import Preprocess
from vitkit.models.backbone import Backbone
from vitkit.runtime.device import Precision, autocast


class Engine:
    """A model in evaluation mode with the normalisation it needs, on one device.

    Takes uint8 batches as `Preprocess.fit` makes them, (B, C, h, w), from any device. Probabilities
    are those of logits divided by `temperature` (arXiv:1706.04599).

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
        temperature: float = 1.0,
    ) -> None:
        self.model = model.to(device).eval()
        self.preprocess = preprocess
        self.device = device
        autocast(device, precision)  # so that a wrong one is found now
        self.precision = precision
        self.temperature = temperature

    @torch.inference_mode()
    def probabilities(self, batch: Tensor) -> Tensor:
        """The share that each class gets: (B, C, h, w) uint8 -> (B, K) float32 on the CPU."""
        return (self._logits(batch) / self.temperature).softmax(dim=-1).cpu()

    def logits(self, batch: Tensor) -> Tensor:
        """What the model says before any temperature: (B, C, h, w) uint8 -> (B, K) float32, CPU."""
        return self._logits(batch).cpu()

    @torch.inference_mode()
    def _logits(self, batch: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            logits: Tensor = self.model(self._input(batch))
        return logits.float()

    @torch.inference_mode()
    def features(self, batch: Tensor) -> Tensor:
        """Pooled features: (B, C, h, w) uint8 -> (B, D) float32 on the CPU."""
        with autocast(self.device, self.precision):
            tokens = self.model.forward_features(self._input(batch))
            pooled = self.model.forward_head(tokens, pre_logits=True)
        return pooled.float().cpu()

    def _input(self, batch: Tensor) -> Tensor:
        return self.preprocess.normalise(batch.to(self.device))
