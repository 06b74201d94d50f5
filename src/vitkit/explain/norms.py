"""How long the vectors of tokens are after every block, and which stand out (arXiv:2309.16588)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitkit.explain.sites import Site
from vitkit.explain.tap import tokens_after
from vitkit.models.backbone import Backbone

# A cell stands out whose norm is this many standard deviations above the median of its layer, by
# the median of deviations, and this many times the median. The paper sets a limit by hand for each
# model: 150 for DINOv2 g, whose other cells lie around 50.
DEVIATIONS, TIMES = 5.0, 3.0
DEVIATION_OF_MEDIAN = 1.4826  # a normal distribution's standard deviation, in medians of deviations
FEW = 0.1  # share of cells; more are not outliers, but how the layer is


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorms:
    """The L2 norm of every token that a block gives, for B images."""

    name: str  # of the block, dotted
    prefix_names: tuple[str, ...]
    prefix: NDArray[np.float32]  # (B, P)
    cells: NDArray[np.float32]  # (B, h, w)

    @property
    def median(self) -> float:
        """Of the cells of all images."""
        return float(np.median(self.cells))

    @property
    def limit(self) -> float:
        """The norm above which a cell stands out, by the spread of all cells of the layer."""
        spread = DEVIATION_OF_MEDIAN * float(np.median(np.abs(self.cells - self.median)))
        return max(self.median + DEVIATIONS * spread, TIMES * self.median)

    @property
    def outliers(self) -> NDArray[np.bool_]:
        """Which cells stand out, (B, h, w); none where they are too many to be outliers."""
        out = self.cells > self.limit
        return out if out.mean() <= FEW else np.zeros_like(out)


@dataclass(frozen=True, slots=True, eq=False)
class TokenNorms:
    """The norms after every block, first to last."""

    layers: tuple[LayerNorms, ...]

    @property
    def warning(self) -> str:
        """One line on outliers, with the layer where they stand out most; empty without any."""
        found = [layer for layer in self.layers if layer.outliers.any()]
        if not found:
            return ""
        worst = max(found, key=lambda layer: layer.cells.max() / max(layer.median, 1e-12))
        out, most = worst.outliers, float(worst.cells.max())
        return (
            f"{worst.name}: {out.sum()} of {out.size} cells ({out.mean():.1%}) have norms up to "
            f"{most:.3g}, {most / max(worst.median, 1e-12):.1f} times the median of "
            f"{worst.median:.3g}; there are such in {len(found)} of {len(self.layers)} blocks, "
            f"first in {found[0].name}. They hold little of their own place (arXiv:2309.16588, "
            "section 2.1), and maps of attention are blotched by them; models with registers "
            "have none"
        )


def token_norms(model: Backbone, x: Tensor) -> TokenNorms:
    """The norm of every token after every block: (B, C, H, W) -> (B, P) and (B, h, w) of each.

    Raises:
        ConfigError: the model has no attention.
    """
    sites, tokens = tokens_after(model, x)
    return TokenNorms(tuple(_norms(site, t) for site, t in zip(sites, tokens, strict=True)))


def _norms(site: Site, tokens: Tensor) -> LayerNorms:
    norms, prefix = tokens.float().norm(dim=-1).cpu(), len(site.prefix)  # (B, T)
    cells = norms[:, prefix:].unflatten(1, site.grid)
    return LayerNorms(site.block, site.prefix, norms[:, :prefix].numpy(), cells.numpy())
