"""vitkit: a folder of images becomes a vision transformer that is trained, understood and used.

The public names below are loaded when they are first used: `import vitkit` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitkit.api import evaluate, train
    from vitkit.classifier import Classifier, Prediction, load
    from vitkit.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        ImageError,
        MissingExtra,
        VitkitError,
        WeightsError,
    )
    from vitkit.evaluation.compare import Comparison
    from vitkit.evaluation.metrics import Evaluation
    from vitkit.models import list_models
    from vitkit.training.directory import Run
    from vitkit.weights.pretrained import create_model

__version__ = "0.1.0"

_ERRORS = (
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ImageError",
    "MissingExtra",
    "VitkitError",
    "WeightsError",
)
_MODULES = {
    "Classifier": "vitkit.classifier",
    "Comparison": "vitkit.evaluation.compare",
    "Evaluation": "vitkit.evaluation.metrics",
    "Prediction": "vitkit.classifier",
    "Run": "vitkit.training.directory",
    "compare": "vitkit.api",
    "create_model": "vitkit.weights.pretrained",
    "evaluate": "vitkit.api",
    "list_models": "vitkit.models",
    "load": "vitkit.classifier",
    "train": "vitkit.api",
    **dict.fromkeys(_ERRORS, "vitkit.errors"),
}
__all__ = [
    "CheckpointError",
    "Classifier",
    "Comparison",
    "ConfigError",
    "DataError",
    "Evaluation",
    "ImageError",
    "MissingExtra",
    "Prediction",
    "Run",
    "VitkitError",
    "WeightsError",
    "compare",
    "create_model",
    "evaluate",
    "list_models",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vitkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
