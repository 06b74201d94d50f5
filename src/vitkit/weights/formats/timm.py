"""timm's names, which are ours: only what is there has to be said."""

from vitkit.models.cct import CCTConfig
from vitkit.models.convnet import ConvNetConfig
from vitkit.models.deit import DeiTConfig
from vitkit.models.hybrid import HybridConfig
from vitkit.models.regnet import RegNetConfig
from vitkit.models.resnet import ResNetConfig
from vitkit.models.swin import SwinConfig
from vitkit.models.swinv2 import SwinV2Config
from vitkit.models.vit import ViTConfig
from vitkit.weights.layout import Layout

VIT = """
cls_token
reg_token
dist_token
pos_embed
patch_embed.*
blocks.[i].norm1.*
blocks.[i].attn.*
blocks.[i].ls1.*
blocks.[i].norm2.*
blocks.[i].mlp.*
blocks.[i].ls2.*
norm.*
fc_norm.*
attn_pool.*
head.*
head_dist.*
"""
SWIN = """
patch_embed.*
layers.[i].blocks.[j].*
layers.[i+1].downsample.*
norm.*
head.fc.*
"""
RESNET = """
conv1.*
bn1.*
layer[i+1].[j].*
fc.*
"""
REGNET = """
stem.*
s[i+1].b[j+1].*
head.fc.*
"""
CONVNET = """
convs.*
head.*
"""
CCT = """
tokenizer.*
pos_embed
blocks.[i].*
norm.*
pool.*
head.*
"""

RECOMPUTED = ("*.relative_position_index", "*.relative_coords_table", "*.attn_mask")
LAYOUTS = (
    Layout(source="timm", families=(ViTConfig, DeiTConfig, HybridConfig), table=VIT),
    Layout(source="timm", families=(SwinConfig, SwinV2Config), table=SWIN, ignored=RECOMPUTED),
    Layout(source="timm", families=(ResNetConfig,), table=RESNET),
    Layout(source="timm", families=(RegNetConfig,), table=REGNET),
)
# What only we have.
OWN = (
    Layout(source="vitkit", families=(ConvNetConfig,), table=CONVNET),
    Layout(source="vitkit", families=(CCTConfig,), table=CCT),
)
