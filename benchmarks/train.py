"""Training speed: vitkit's step against the same ViT written plainly, on CIFAR-10 in memory.

    python -m benchmarks.train --data ../shared/data/cifar10-jpeg.zip --epochs 3 --threads 2 \\
        --out benchmarks/results/train-cpu.json

The plain side is what one writes by hand: `nn.MultiheadAttention` in float32, AdamW, one loop over
shuffled uint8 images in memory, no augmentation, no weight average. Both have the same weights at
the start and must give the same logits. Then they take turns, a few steps each, and both are tested
at the end: a faster step is worth nothing if it learns less.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.record import keep, parser
from torch import Tensor, nn

from vitkit.models.vit import ViT
from vitkit.progress import silent
from vitkit.runtime.engine import Engine
from vitkit.training.config import resolve
from vitkit.training.dataset import read_dataset
from vitkit.training.prepare import make_learner, prepare
from vitkit.training.sampling import Examples, batches, steps_per_epoch
from vitkit.training.schedule import Pace
from vitkit.training.scoring import scores
from vitkit.training.step import Learner, train_step

WIDTH, DEPTH, HEADS, PATCH, SIDE, BATCH = 128, 4, 4, 4, 32, 128
SETTINGS = (
    f"model.dim={WIDTH}",
    f"model.depth={DEPTH}",
    f"model.num_heads={HEADS}",
    f"model.patch_size={PATCH}",
    f"data.image_size={SIDE}",
    f"batch_size={BATCH}",
    "data.val_fraction=0",
    "warmup_epochs=0.5",
)
TURN = 10  # steps
WARM = 3  # turns that are not counted


class PlainBlock(nn.Module):
    """A pre-norm block from PyTorch's own parts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class PlainViT(nn.Module):
    """The textbook ViT: (B, 3, 32, 32) -> (B, K)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        tokens = (SIDE // PATCH) ** 2 + 1
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, tokens, WIDTH))
        self.blocks = nn.Sequential(*(PlainBlock() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])

    @torch.no_grad()
    def copy(self, model: ViT) -> None:
        """Take the weights of our model, whose parameters come in the same order but for tokens."""
        self.cls.copy_(model.cls_token)
        self.positions.copy_(model.pos_embed)
        for mine, other in (
            (self.patches, model.patch_embed.proj),
            (self.norm, model.norm),
            (self.head, model.head),
        ):
            mine.load_state_dict(other.state_dict())
        for mine, other in zip(self.blocks, model.blocks, strict=True):
            mine.norm1.load_state_dict(other.norm1.state_dict())
            mine.norm2.load_state_dict(other.norm2.state_dict())
            mine.attention.in_proj_weight.copy_(other.attn.qkv.weight)
            mine.attention.in_proj_bias.copy_(other.attn.qkv.bias)
            mine.attention.out_proj.load_state_dict(other.attn.proj.state_dict())
            mine.mlp[0].load_state_dict(other.mlp.fc1.state_dict())
            mine.mlp[2].load_state_dict(other.mlp.fc2.state_dict())


def normalise(images: Tensor) -> Tensor:
    return images.float().div(255).sub(0.5).div(0.5)


def plain_steps(model: PlainViT, train: Examples, epochs: int, lr: float) -> Iterator[int]:
    """The plain loop; yields the images of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    model.train()
    for _ in range(epochs):
        for rows in train.rows[torch.randperm(len(train))].split(BATCH):
            loss = F.cross_entropy(model(normalise(train.images[rows])), train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield len(rows)


def our_steps(learner: Learner, train: Examples) -> Iterator[int]:
    """vitkit's loop, step by step."""
    settings = learner.settings
    total = steps_per_epoch(len(train), settings) * settings.epochs
    plan = [rows for epoch in range(settings.epochs) for rows in batches(train, settings, epoch)]
    learner.model.train()
    for step, (images, labels) in enumerate(train.read(plan)):
        train_step(learner, images, labels, Pace(step, total))
        yield len(images)


def take_turns(contestants: dict[str, Iterator[int]]) -> dict[str, list[float]]:
    """Images per second of each turn, until the first contestant has no steps left."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    alive = True
    while alive:
        for name, steps in contestants.items():
            started, images = time.perf_counter(), 0
            for _ in range(TURN):
                count = next(steps, 0)
                alive = alive and count > 0
                images += count
            rates[name].append(images / (time.perf_counter() - started))
    return {name: values[WARM:-1] for name, values in rates.items()}


@torch.inference_mode()
def plain_accuracy(model: PlainViT, test: Examples) -> float:
    model.eval()
    hits = [
        (model(normalise(test.images[rows])).argmax(dim=1) == test.labels[rows]).sum()
        for rows in test.rows.split(256)
    ]
    return float(torch.stack(hits).sum() / len(test))


def our_accuracy(learner: Learner, test: Examples) -> float:
    engine = Engine(learner.predictor, learner.preprocess, device=learner.device)
    answers = scores(engine.probabilities, test)[0].argmax(dim=1)
    return float((answers == test.labels[test.rows]).float().mean())


def compare(data: str, epochs: int, images: int | None) -> dict[str, Any]:
    """Run both sides and describe what came out."""
    prepared = prepare(data, resolve([*SETTINGS, f"epochs={epochs}"]))
    dataset = read_dataset(
        prepared.source, prepared.preprocess, prepared.resolved.settings, listen=silent
    )
    train, test = dataset.examples["train"], dataset.examples["test"]
    if images is not None:
        train = replace(train, rows=train.rows[torch.randperm(len(train))[:images]])
    learner = make_learner(prepared)
    plain = PlainViT(len(prepared.source.classes))
    plain.copy(learner.model)
    probe = normalise(train.images[train.rows[:8]])
    torch.testing.assert_close(plain(probe), learner.model(probe), rtol=1e-4, atol=1e-5)
    rates = take_turns(
        {
            "plain": plain_steps(plain, train, epochs, learner.settings.lr),
            "vitkit": our_steps(learner, train),
        }
    )
    ratios = [ours / theirs for ours, theirs in zip(rates["vitkit"], rates["plain"], strict=True)]
    quarters = statistics.quantiles(ratios, n=4)
    return {
        "images_per_second": {name: round(statistics.median(r)) for name, r in rates.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratio_quartiles": [round(quarters[0], 2), round(quarters[2], 2)],
        "top1": {
            "plain": round(plain_accuracy(plain, test), 4),
            "vitkit": round(our_accuracy(learner, test), 4),
        },
        "epochs": epochs,
        "train_images": len(train),
        "batch_size": BATCH,
        "dtype": {"plain": "float32", "vitkit": learner.settings.precision},
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", default="../shared/data/cifar10-jpeg.zip")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--images", type=int, help="train on so many images only")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    result = compare(arguments.data, arguments.epochs, arguments.images)
    keep(result, arguments)


if __name__ == "__main__":
    main()
