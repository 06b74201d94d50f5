"""The temperature of a run's best weights, so that their confidence can be believed."""

from pathlib import Path

from vitkit.classifier import Classifier
from vitkit.evaluation.calibration import FEWEST, fit_temperature
from vitkit.training.checkpoint import BEST, replacing_directory
from vitkit.training.distributed import SOLO, Group
from vitkit.training.sampling import Split
from vitkit.training.scoring import scores


def calibrate(directory: Path, classifier: Classifier, val: Split, group: Group = SOLO) -> None:
    """Fit the temperature of a run's `classifier` on `val`, and keep it with its best weights.

    With fewer than 50 images, or without best weights, all stays as it is.

    Raises:
        CheckpointError: the disk does not take it.
    """
    if len(val) < FEWEST or not (directory / BEST).is_dir():
        return
    engine = classifier.engine
    logits, labels = (tensor.numpy() for tensor in scores(engine.logits, val, group))
    temperature = group.of_first(fit_temperature(logits, labels))
    changed, engine.temperature = temperature != engine.temperature, temperature
    if changed and group.first:
        with replacing_directory(directory / BEST) as fresh:
            classifier.save(fresh)
