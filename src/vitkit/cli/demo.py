"""`vitkit demo`."""

from vitkit.cli.options import Json, Out
from vitkit.cli.train import run_and_show

# A small ViT that learns 1,293 digits of 8x8 pixels from nothing. Digits have a handedness.
SETTINGS = (
    "model.name=vit_tiny_patch16_224",
    "model.patch_size=8",
    "model.dim=128",
    "model.depth=4",
    "model.num_heads=4",
    "model.pool=mean",
    "data.image_size=32",
    "augment.mirror=false",
    "batch_size=64",
    "epochs=40",
    "lr=2e-3",
    "warmup_epochs=5",
)


def demo(out: Out = None, as_json: Json = False) -> None:
    """Train, evaluate and report on real digits, in under 3 minutes."""
    from vitkit.training.config import resolve

    resolved = resolve(SETTINGS, origin="demo")
    run_and_show("digits", resolved, out, as_json=as_json)
