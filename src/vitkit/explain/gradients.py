"""Methods that ask the gradient, of a map of features or of the pixels."""

import numpy as np
import torch
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.graft import Kept, graft
from vitkit.explain.sites import find_sites, has_attention
from vitkit.explain.target import Target
from vitkit.models.backbone import Backbone

AT_ONCE = 32  # images that a model is run on together


def gradcam(model: Backbone, x: Tensor, target: Target) -> Tensor:
    """Features weighted by their mean gradient: (B, C, H, W) -> (B, h, w).

    Grad-CAM (arXiv:1610.02391, eq. 1 and 2), of what the last block's first norm gives, as is usual
    for transformers: what enters the attention, in SwinV2 what leaves it. Of a CNN on its last map.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()  # or features of a frozen model would have no gradient
        features, logits = _last_features(model, x)
        (slope,) = torch.autograd.grad(target.score(logits).sum(), features)
    if not has_attention(model):
        weights = slope.mean(dim=(2, 3), keepdim=True)
        return (weights * features.detach()).sum(dim=1).clamp(min=0)
    site = find_sites(model, (x.shape[2], x.shape[3]))[-1]
    prefix = len(site.prefix)
    cells, slopes = (
        t.detach().reshape(len(x), -1, t.shape[-1])[:, prefix:] for t in (features, slope)
    )
    weights = slopes.mean(dim=1, keepdim=True)  # (B, 1, D)
    grid: Tensor = (weights * cells).sum(dim=-1).clamp(min=0).unflatten(1, site.grid)
    return grid


def _last_features(model: Backbone, x: Tensor) -> tuple[Tensor, Tensor]:
    """The features that Grad-CAM weights, and the logits that came of them."""
    if not has_attention(model):
        features = model.forward_features(x)
        return features, model.forward_head(features)
    block = find_sites(model, (x.shape[2], x.shape[3]))[-1].block
    kept: dict[int, Tensor] = {}
    name = f"{block}.norm1"
    logits = graft(model, {name: Kept(model.get_submodule(name), kept, 0)})(x)
    return kept[0], logits


def integrated_gradients(
    model: Backbone, x: Tensor, target: Target, *, steps: int = 50, baseline: float = 0.0
) -> Tensor:
    """What each pixel adds on the way from an even image to this one: -> (B, H, W), with sign.

    Integrated gradients (arXiv:1703.01365, eq. 1) by a Gauss-Legendre sum of `steps`. `baseline` is
    the value of the even image after normalisation: 0 is the mean that the model was trained with.
    The sum over all pixels is the target's score less that of the even image.

    Raises:
        ConfigError: fewer than 1 step.
    """
    if steps < 1:
        raise ConfigError(f"steps={steps} is less than 1; try 50")
    points, weights = np.polynomial.legendre.leggauss(steps)  # on -1 to 1
    total = torch.zeros_like(x)
    each = max(AT_ONCE // len(x), 1)
    for begin in range(0, steps, each):
        part = slice(begin, begin + each)
        alphas = torch.tensor((points[part] + 1) / 2, dtype=x.dtype, device=x.device)
        shares = torch.tensor(weights[part] / 2, dtype=x.dtype, device=x.device)
        between = (
            baseline + alphas.view(1, -1, 1, 1, 1) * (x - baseline)[:, None]
        )  # (B, s, C, H, W)
        between = between.flatten(0, 1).detach().requires_grad_()
        with torch.enable_grad():
            score = target.repeat(len(alphas)).score(model(between)).sum()
            (slope,) = torch.autograd.grad(score, between)
        slopes = slope.unflatten(0, (len(x), -1))
        total += (slopes * shares.view(1, -1, 1, 1, 1)).sum(dim=1)
    return (total * (x - baseline)).sum(dim=1)
