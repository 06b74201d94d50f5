"""The temperature of a run's best weights, so that their confidence can be believed."""

from pathlib import Path

import torch

from vitkit.classifier import Classifier
from vitkit.evaluation.calibration import FEWEST, fit_temperature
from vitkit.training.checkpoint import BEST, replacing_directory
from vitkit.training.sampling import Split


def calibrate(directory: Path, classifier: Classifier, val: Split) -> None:
    """Fit the temperature of a run's `classifier` on `val`, and keep it with its best weights.

    With fewer than 50 images, or without best weights, all stays as it is.

    Raises:
        CheckpointError: the disk does not take it.
    """
    if len(val) < FEWEST or not (directory / BEST).is_dir():
        return
    engine = classifier.engine
    parts = [(engine.logits(images), labels) for images, labels in val.once()]
    logits, labels = (torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True))
    temperature = fit_temperature(logits, labels)
    if temperature != engine.temperature:
        engine.temperature = temperature
        with replacing_directory(directory / BEST) as fresh:
            classifier.save(fresh)
