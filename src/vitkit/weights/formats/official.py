"""The names in the files that papers' authors published, where timm does not have them too.

DeiT III, DINOv2, Swin, SwinV2, CCT. DeiT's names are timm's, its way to resize positions is not.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitkit.models.cct import CCTConfig
from vitkit.models.deit import DeiTConfig
from vitkit.models.swin import SwinConfig
from vitkit.models.swinv2 import SwinV2Config
from vitkit.models.vit import ViTConfig
from vitkit.weights.formats.timm import VIT as DEIT
from vitkit.weights.formats.timm_config import IMAGENET
from vitkit.weights.layout import Layout, Step

DEIT3 = """
cls_token
pos_embed
patch_embed.proj.*
blocks.[i].norm1.*
blocks.[i].attn.*
blocks.[i].ls1.gamma  blocks.[i].gamma_1
blocks.[i].norm2.*
blocks.[i].mlp.*
blocks.[i].ls2.gamma  blocks.[i].gamma_2
norm.*
head.*
"""

DINOV2 = """
cls_token
pos_embed
patch_embed.proj.*
blocks.[i].*
norm.*
"""

# With registers, DINOv2 gives positions to the class token and to patches, and only then puts the
# registers between them. The class token's own position is part of that token here, as in timm.
DINOV2_REGISTERS = """
{cls_token,pos_embed}  {cls_token,pos_embed}  : class position
reg_token              register_tokens
patch_embed.proj.*
blocks.[i].*
norm.*
"""


def _read_class_position(tensors: Sequence[Tensor]) -> list[Tensor]:
    token, positions = tensors
    return [token + positions[:, :1], positions[:, 1:]]


def _write_class_position(tensors: Sequence[Tensor], config: Any) -> list[Tensor]:
    token, positions = tensors
    return [token, torch.cat([torch.zeros_like(token), positions], dim=1)]


CLASS_POSITION = Step(_read_class_position, _write_class_position)

SWIN = """
patch_embed.*
layers.[i].blocks.[j].*
layers.[i+1].downsample.*  layers.[i].downsample.*
norm.*
head.fc.weight             head.weight
head.fc.bias               head.bias
"""

CCT = """
tokenizer.convs.[i].weight   tokenizer.conv_layers.[i].0.weight
pos_embed                    classifier.positional_emb
blocks.[i].norm1.*           classifier.blocks.[i].pre_norm.*
blocks.[i].attn.qkv.weight   classifier.blocks.[i].self_attn.qkv.weight
blocks.[i].attn.proj.*       classifier.blocks.[i].self_attn.proj.*
blocks.[i].norm2.*           classifier.blocks.[i].norm1.*
blocks.[i].mlp.fc1.*         classifier.blocks.[i].linear1.*
blocks.[i].mlp.fc2.*         classifier.blocks.[i].linear2.*
norm.*                       classifier.norm.*
pool.attention.*             classifier.attention_pool.*
head.*                       classifier.fc.*
"""

EVALUATION = {"crop_pct": 224 / 256, "interpolation": "bicubic", **IMAGENET}
RECOMPUTED = ("*.relative_position_index", "*.relative_coords_table", "*.attn_mask")
LAYOUTS = (
    Layout(
        source="official",
        families=(ViTConfig, DeiTConfig),
        table=DEIT3,
        config={"prefix_positions": False},
        resize="bicubic",
        preprocess=EVALUATION,
    ),
    Layout(
        source="official",
        families=(ViTConfig,),
        table=DINOV2,
        ignored=("mask_token",),
        resize="bicubic",
        preprocess=EVALUATION,
    ),
    Layout(
        source="official",
        families=(ViTConfig,),
        table=DINOV2_REGISTERS,
        steps={"class position": CLASS_POSITION},
        ignored=("mask_token",),
        resize="bicubic",
        preprocess=EVALUATION,
        config={"prefix_positions": False},
    ),
    Layout(
        source="official",
        families=(SwinConfig, SwinV2Config),
        table=SWIN,
        ignored=RECOMPUTED,
        preprocess=EVALUATION,
    ),
    Layout(source="official", families=(CCTConfig,), table=CCT, resize="bicubic"),
    Layout(  # the same names as timm's, so that only `format` tells that a file is the authors'
        source="official",
        families=(ViTConfig, DeiTConfig),
        table=DEIT,
        resize="bicubic",
        preprocess=EVALUATION,
    ),
)
