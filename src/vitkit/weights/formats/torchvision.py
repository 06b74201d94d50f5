"""torchvision's names: ViT, Swin, SwinV2, ResNet, RegNet."""

import torch
from torch import Tensor

from vitkit.errors import WeightsError
from vitkit.layers.window import fit_window
from vitkit.models.backbone import Config
from vitkit.models.regnet import RegNetConfig
from vitkit.models.resnet import ResNetConfig
from vitkit.models.swin import SwinConfig
from vitkit.models.swinv2 import SwinV2Config
from vitkit.models.vit import ViTConfig
from vitkit.weights.formats.timm_config import IMAGENET
from vitkit.weights.layout import Layout, Step

VIT = """
cls_token                     class_token
pos_embed                     encoder.pos_embedding
patch_embed.proj.*            conv_proj.*
blocks.[i].norm1.*            encoder.layers.encoder_layer_[i].ln_1.*
blocks.[i].attn.qkv.weight    encoder.layers.encoder_layer_[i].self_attention.in_proj_weight
blocks.[i].attn.qkv.bias      encoder.layers.encoder_layer_[i].self_attention.in_proj_bias
blocks.[i].attn.proj.*        encoder.layers.encoder_layer_[i].self_attention.out_proj.*
blocks.[i].norm2.*            encoder.layers.encoder_layer_[i].ln_2.*
blocks.[i].mlp.fc1.*          encoder.layers.encoder_layer_[i].mlp.0.*
blocks.[i].mlp.fc2.*          encoder.layers.encoder_layer_[i].mlp.3.*
norm.*                        encoder.ln.*
head.*                        heads.head.*
"""
OLDER_VIT = VIT.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")

SWIN = """
patch_embed.proj.*                                       features.0.0.*
patch_embed.norm.*                                       features.0.2.*
layers.[i].blocks.[j].norm1.*                            features.[2i+1].[j].norm1.*
layers.[i].blocks.[j].attn.relative_position_bias_table  features.[2i+1].[j].attn.relative_position_bias_table
layers.[i].blocks.[j].attn.qkv.*                         features.[2i+1].[j].attn.qkv.*
layers.[i].blocks.[j].attn.proj.*                        features.[2i+1].[j].attn.proj.*
layers.[i].blocks.[j].norm2.*                            features.[2i+1].[j].norm2.*
layers.[i].blocks.[j].mlp.fc1.*                          features.[2i+1].[j].mlp.0.*
layers.[i].blocks.[j].mlp.fc2.*                          features.[2i+1].[j].mlp.3.*
layers.[i+1].downsample.norm.*                           features.[2i+2].norm.*
layers.[i+1].downsample.reduction.*                      features.[2i+2].reduction.*
norm.*                                                   norm.*
head.fc.*                                                head.*
"""  # noqa: E501

SWINV2 = """
patch_embed.proj.*                                  features.0.0.*
patch_embed.norm.*                                  features.0.2.*
layers.[i].blocks.[j].norm1.*                       features.[2i+1].[j].norm1.*
layers.[i].blocks.[j].attn.logit_scale              features.[2i+1].[j].attn.logit_scale
layers.[i].blocks.[j].attn.cpb_mlp.*                features.[2i+1].[j].attn.cpb_mlp.*
layers.[i].blocks.[j].attn.qkv.weight               features.[2i+1].[j].attn.qkv.weight
layers.[i].blocks.[j].attn.{q_bias,v_bias}          features.[2i+1].[j].attn.qkv.bias  : no key bias
layers.[i].blocks.[j].attn.proj.*                   features.[2i+1].[j].attn.proj.*
layers.[i].blocks.[j].norm2.*                       features.[2i+1].[j].norm2.*
layers.[i].blocks.[j].mlp.fc1.*                     features.[2i+1].[j].mlp.0.*
layers.[i].blocks.[j].mlp.fc2.*                     features.[2i+1].[j].mlp.3.*
layers.[i+1].downsample.norm.*                      features.[2i+2].norm.*
layers.[i+1].downsample.reduction.*                 features.[2i+2].reduction.*
norm.*                                              norm.*
head.fc.*                                           head.*
"""
# Keys need no bias: torchvision stores one, and sets it to zero whenever it computes.
NO_KEY_BIAS = Step(
    read=lambda tensors: tensors[0].chunk(3)[::2],
    write=lambda tensors, config: [
        torch.cat([tensors[0], torch.zeros_like(tensors[0]), tensors[1]])
    ],
)

RESNET = """
conv1.*
bn1.*
layer[i+1].[j].*
fc.*
"""

REGNET = """
stem.conv.weight                       stem.0.weight
stem.bn.*                              stem.1.*
s[i+1].b[j+1].downsample.conv.weight   trunk_output.block[i+1].block[i+1]-[j].proj.0.weight
s[i+1].b[j+1].downsample.bn.*          trunk_output.block[i+1].block[i+1]-[j].proj.1.*
s[i+1].b[j+1].conv1.conv.weight        trunk_output.block[i+1].block[i+1]-[j].f.a.0.weight
s[i+1].b[j+1].conv1.bn.*               trunk_output.block[i+1].block[i+1]-[j].f.a.1.*
s[i+1].b[j+1].conv2.conv.weight        trunk_output.block[i+1].block[i+1]-[j].f.b.0.weight
s[i+1].b[j+1].conv2.bn.*               trunk_output.block[i+1].block[i+1]-[j].f.b.1.*
s[i+1].b[j+1].se.*                     trunk_output.block[i+1].block[i+1]-[j].f.se.*
s[i+1].b[j+1].conv3.conv.weight        trunk_output.block[i+1].block[i+1]-[j].f.c.0.weight
s[i+1].b[j+1].conv3.bn.*               trunk_output.block[i+1].block[i+1]-[j].f.c.1.*
head.fc.*                              fc.*
"""

RECOMPUTED = ("*.relative_position_index", "*.relative_coords_table")
PLAIN_VIT = {
    "pool": "cls",
    "class_token": True,
    "registers": 0,
    "layer_scale": None,
    "prefix_positions": True,
    "qk_norm": False,
}
# Weights were trained in several ways; this is what most of them are evaluated with.
BILINEAR = {"crop_pct": 224 / 256, "interpolation": "bilinear", **IMAGENET}
BICUBIC = {"crop_pct": 224 / 232, "interpolation": "bicubic", **IMAGENET}
LAYOUTS = (
    Layout(
        source="torchvision",
        families=(ViTConfig,),
        table=VIT,
        config=PLAIN_VIT,
        resize="bicubic_corners",
        preprocess=BILINEAR,
    ),
    Layout(
        source="torchvision",
        families=(ViTConfig,),
        table=OLDER_VIT,
        config=PLAIN_VIT,
        resize="bicubic_corners",
        preprocess=BILINEAR,
    ),
    Layout(
        source="torchvision",
        families=(SwinConfig,),
        table=SWIN,
        ignored=RECOMPUTED,
        preprocess=BICUBIC,
    ),
    Layout(
        source="torchvision",
        families=(SwinV2Config,),
        table=SWINV2,
        steps={"no key bias": NO_KEY_BIAS},
        ignored=RECOMPUTED,
        preprocess=BICUBIC | {"crop_pct": 256 / 260},
    ),
    Layout(source="torchvision", families=(ResNetConfig,), table=RESNET, preprocess=BILINEAR),
    Layout(source="torchvision", families=(RegNetConfig,), table=REGNET, preprocess=BILINEAR),
)


def buffers(config: Config) -> dict[str, Tensor]:
    """What torchvision keeps beside the weights of windows, though it follows from their size.

    Raises:
        WeightsError: windows that torchvision does not have.
    """
    if not isinstance(config, SwinConfig):
        return {}
    own = (config.window_size,) * 2
    if any(fit_window(grid, config.window_size)[0] != own for grid in config.grids):
        raise WeightsError(f"torchvision has no windows smaller than window_size={own[0]}")
    if isinstance(config, SwinV2Config) and any(config.pretrained_window_sizes):
        sizes = config.pretrained_window_sizes
        raise WeightsError(f"torchvision has no pretrained_window_sizes={sizes}")
    made: dict[str, Tensor] = {}
    for stage, depth in enumerate(config.depths):
        window = config.window_size
        for block in range(depth):
            name = f"features.{2 * stage + 1}.{block}.attn."
            made[name + "relative_position_index"] = position_index(window)
            if isinstance(config, SwinV2Config):
                made[name + "relative_coords_table"] = coordinates(window)
    return made


def position_index(window: int) -> Tensor:
    """Where in a table of all offsets the one of each two tokens of a window stands: (w^4,)."""
    side = torch.arange(window)
    rows, columns = (m.flatten() for m in torch.meshgrid(side, side, indexing="ij"))
    down = rows[:, None] - rows + window - 1  # (w^2, w^2)
    across = columns[:, None] - columns + window - 1
    return (down * (2 * window - 1) + across).flatten()


def coordinates(window: int) -> Tensor:
    """Offsets on the scale of SwinV2 (arXiv:2111.09883, eq. 4): (1, 2 w - 1, 2 w - 1, 2)."""
    offsets = torch.arange(1 - window, window, dtype=torch.float32) / max(window - 1, 1) * 8
    scaled = offsets.sign() * (offsets.abs() + 1).log2() / 3
    return torch.stack(torch.meshgrid(scaled, scaled, indexing="ij"), dim=-1)[None]
