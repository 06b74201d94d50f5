"""DeiT: data-efficient image transformers, and the distillation token (arXiv:2012.12877).

DeiT III (arXiv:2204.07118) is a plain ViT with LayerScale, whose class token has no position.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.models.vit import B16, H14, L16, S16, TI16, ViT, ViTConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DeiTConfig(ViTConfig):
    """DeiT with the distillation token (arXiv:2012.12877, fig. 2); the defaults are DeiT-B/16.

    The models without that token are plain ViTs: only their recipe differs.

    Raises:
        ConfigError: as `ViTConfig`, and a pool other than the class token.
    """

    def __post_init__(self) -> None:
        ViTConfig.__post_init__(self)  # super() does not see through slots before Python 3.14
        if self.pool != "cls":
            raise ConfigError(
                f"pool={self.pool} is not for a distilled model, whose two heads read two tokens; "
                "set pool=cls"
            )

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: class, distillation, registers."""
        return int(self.class_token) + 1 + self.registers


class DeiT(ViT):
    """A ViT with a second token and head that learn from a teacher: (B, C, H, W) -> (B, K).

    The prediction is the mean of the two heads' logits, as in the authors' code; the paper's
    section 4 adds their softmax instead. `forward_heads` gives them apart for training.
    """

    def __init__(self, config: DeiTConfig) -> None:
        super().__init__(config)
        self.dist_token = nn.Parameter(torch.empty(1, 1, config.dim))
        nn.init.trunc_normal_(self.dist_token, std=0.02)
        self.head_dist = self.new_head(config.num_classes)

    def prefix_tokens(self) -> list[Tensor]:
        """Class and distillation token, then registers, each (1, n, D)."""
        tokens = (self.cls_token, self.dist_token, self.reg_token)
        return [token for token in tokens if token is not None]

    def forward_heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the class head and of the distillation head: (B, P + N, D) -> 2 x (B, K)."""
        return self.head(self.pool(x)), self.head_dist(x[:, 1])

    def forward_both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both heads: (B, C, H, W) -> 2 x (B, K)."""
        return self.forward_heads(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Mean of both heads, (B, P + N, D) -> (B, K); with `pre_logits` of both tokens, (B, D)."""
        if not self.pooled:
            return x if pre_logits else self.head(x)
        if pre_logits:
            return (x[:, 0] + x[:, 1]) / 2
        ours, taught = self.forward_heads(x)
        return (ours + taught) / 2

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Both heads."""
        return "head", "head_dist"

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, besides vectors, that weight decay should leave alone."""
        return super().no_weight_decay() | {"dist_token"}


DISTILLED_B16 = DeiTConfig()
AT_384 = (384, 384)


def deit3(config: ViTConfig) -> ViTConfig:
    """The DeiT III of a ViT's size."""
    return replace(config, layer_scale=1e-6, prefix_positions=False)


CONFIGS: dict[str, ViTConfig] = {
    "deit_tiny_patch16_224": TI16,
    "deit_small_patch16_224": S16,
    "deit_base_patch16_224": B16,
    "deit_base_patch16_384": replace(B16, image_size=AT_384),
    "deit_tiny_distilled_patch16_224": replace(DISTILLED_B16, dim=192, num_heads=3),
    "deit_small_distilled_patch16_224": replace(DISTILLED_B16, dim=384, num_heads=6),
    "deit_base_distilled_patch16_224": DISTILLED_B16,
    "deit_base_distilled_patch16_384": replace(DISTILLED_B16, image_size=AT_384),
    "deit3_small_patch16_224": deit3(S16),
    "deit3_small_patch16_384": deit3(replace(S16, image_size=AT_384)),
    "deit3_medium_patch16_224": deit3(replace(B16, dim=512, num_heads=8)),
    "deit3_base_patch16_224": deit3(B16),
    "deit3_base_patch16_384": deit3(replace(B16, image_size=AT_384)),
    "deit3_large_patch16_224": deit3(L16),
    "deit3_large_patch16_384": deit3(replace(L16, image_size=AT_384)),
    "deit3_huge_patch14_224": deit3(H14),
}
