"""Settings that can be computed but are known to end badly: what to say before they do."""

from vitkit.models.backbone import Config
from vitkit.training.settings import TrainSettings

NARROWEST_HEAD = 32  # of a width that is trained from scratch
HIGHEST_RATE = 5e-3  # of AdamW and LAMB's kin, for a transformer


def doubts(settings: TrainSettings, config: Config, images: int) -> list[str]:
    """What is likely to fail, why, and what to set instead; a line for each."""
    found = []
    dim, heads = getattr(config, "dim", None), getattr(config, "num_heads", None)
    if isinstance(dim, int) and isinstance(heads, int) and settings.init is None:
        width = dim // heads
        if width < NARROWEST_HEAD:
            fit = max(dim // NARROWEST_HEAD, 1)
            found.append(
                f"model.num_heads={heads} leaves each head {width} of dim={dim}: heads narrower "
                f"than {NARROWEST_HEAD} learn badly; try model.num_heads={fit}"
            )
    if settings.optimizer == "adamw" and settings.lr > HIGHEST_RATE and settings.tune == "all":
        found.append(
            f"lr={settings.lr:g} is more than AdamW bears: transformers stop learning at 1e-2; "
            "try lr=1e-3"
        )
    if settings.batch_size > images:
        found.append(
            f"batch_size={settings.batch_size} is more than the {images:,} images there are, so "
            f"that an epoch is one step; try batch_size={max(images // 8, 1)}"
        )
    return found
