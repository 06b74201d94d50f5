"""The learning rate over a run."""

import math


def warmup_cosine(step: int, *, total: int, warmup: int, peak: float, last: float) -> float:
    """Rise linearly to `peak` over `warmup` steps, then fall by half a cosine to `last` at the end.

    The first step already learns: it has the rate `peak / warmup`. Source: arXiv:1608.03983, eq. 5.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(total - 1 - warmup, 1)
    return last + (peak - last) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
