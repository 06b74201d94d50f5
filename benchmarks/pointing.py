"""Where the maps of models that learned `shapes` point, and what cells of the ground know.

    python -m benchmarks.pointing --out benchmarks/results/pointing-shapes.json
    python -m benchmarks.pointing --models stem --runs DIR    # takes DIR/stem if it is there

Trains each model on 10,000 shapes of 48 pixels (minutes of one core each), and puts all methods to
the test on 200 that it has not seen: the pointing game as it is, and within the customary 15/224 of
the side; and deletion beside random maps. Then a linear probe reads the class from cells that have
no part of the object within six pixels, after every block: by then attention has told them.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.record import keep, parser
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import vitkit
from vitkit.classifier import Classifier
from vitkit.explain.contest import Trial, contest
from vitkit.explain.faithfulness import widened
from vitkit.explain.planted import Example, planted
from vitkit.explain.tap import tokens_after

DATA, SIZE, SEED, PROBED = "shapes:count=10000,size=48,seed=1", 48, 99, 98
CUSTOMARY = round(15 / 224 * SIZE)  # pixels
FAR, CELLS = 6, 4  # pixels from the object, and cells of each image that the probe reads
COMMON: dict[str, Any] = {
    "recipe": "small",
    "model": "vitc_compact_32",
    "model.patch_size": 4,
    "model.dim": 96,
    "data.image_size": SIZE,
    "data.val_fraction": 0.04,
    "data.test_fraction": 0.04,
    "augment.shift": 0.0,
    "augment.scale": None,
    "augment.policy": "none",
    "batch_size": 48,
}
MIXED = {"mix.cutmix": 1.0, "mix.probability": 0.5, "mix.mode": "elem"}
MODELS: dict[str, dict[str, Any]] = {
    "stem": {
        "model.stem": [32, 64],
        "model.depth": 3,
        "model.num_heads": 3,
        "model.pool": "cls",
        "model.class_token": True,
        "epochs": 7,
    },
    "mean": {
        "model.stem": [32, 64, 64, 64],
        "model.depth": 2,
        "model.num_heads": 3,
        "mix.until": 0.8,
        "epochs": 7,
        **MIXED,
    },
    "both": {
        "model.stem": [32, 64, 64],
        "model.depth": 2,
        "model.num_heads": 12,
        "model.pool": "cls_mean",
        "model.class_token": True,
        "epochs": 4,
        **MIXED,
    },
}


def measure(classifier: Classifier, images: int) -> dict[str, Any]:
    """The figures of one model."""
    examples = list(planted(classifier.preprocess, count=images, size=SIZE, seed=SEED))
    scores: dict[str, Any] = {}
    for tolerance in (0, CUSTOMARY):
        found = contest(
            classifier.model,
            examples,
            options={"integrated_gradients": {"steps": 20}},
            trial=Trial(tolerance=tolerance),
        )
        scores[f"chance_within_{tolerance}"] = found.chance
        for entry in found.entries:
            assert entry.pointing is not None
            figures = scores.setdefault(entry.method, {"deletion": str(entry.deletion)})
            figures[f"pointing_within_{tolerance}"] = round(entry.pointing.mean, 4)
            figures["verdict"] = entry.verdict
    return {
        "methods": scores,
        "ground_cells_tell_the_class_after_block": probe(classifier, 3 * images),
    }


def probe(classifier: Classifier, images: int) -> list[float]:
    """Share of held-out ground cells from which a linear model reads the class, block by block."""
    examples = list(planted(classifier.preprocess, count=images, size=SIZE, seed=PROBED))
    labels = np.repeat([example.label for example in examples], CELLS)
    sites, tokens = tokens_after(classifier.model, torch.stack([e.x for e in examples]))
    generator = torch.Generator().manual_seed(0)
    cells = [
        torch.multinomial(far_from_object(e, site.grid), CELLS, generator=generator)
        for e in examples
        for site in sites[:1]
    ]
    learned = 2 * len(labels) // 3
    shares = []
    for site, after in zip(sites, tokens, strict=True):
        places = [len(site.prefix) + each for each in cells]
        rows: Tensor = torch.stack([after[i, each] for i, each in enumerate(places)])
        features: NDArray[np.float32] = F.layer_norm(rows, rows.shape[-1:]).flatten(0, 1).numpy()
        model = LogisticRegression(max_iter=300).fit(features[:learned], labels[:learned])
        shares.append(round(float(model.score(features[learned:], labels[learned:])), 3))
    return shares


def far_from_object(example: Example, grid: tuple[int, int]) -> Tensor:
    """1 for each cell that has no part of the object near, in one row, else 0."""
    assert example.mask is not None
    near = widened(torch.from_numpy(example.mask)[None], FAR).float()[:, None]
    return 1 - F.adaptive_max_pool2d(near, grid).flatten()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options.add_argument("--images", type=int, default=200)
    options.add_argument("--runs", type=Path, help="leave the runs there, and take finished ones")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {"data": DATA, "images": arguments.images, "models": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.models:
            run = vitkit.Run((arguments.runs or Path(scratch)) / name)
            if run.evaluation is None:
                run = vitkit.train(DATA, out=run.directory, **COMMON, **MODELS[name])
            assert run.evaluation is not None
            found = measure(run.load(), arguments.images)
            result["models"][name] = {"top1": round(run.evaluation.top1, 4), **found}
    keep(result, arguments)


if __name__ == "__main__":
    main()
