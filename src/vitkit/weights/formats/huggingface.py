"""Hugging Face transformers' names: ViT, DeiT, DINOv2, Swin, SwinV2, ResNet, RegNet.

The files on the hub have the names of transformers 4; version 5 reads those, and calls the parts of
ViT, DeiT, DINOv2 and Swin otherwise itself. Both are read, the older ones written.
"""

from typing import Any

from vitkit.models.backbone import Config
from vitkit.models.deit import DeiTConfig
from vitkit.models.regnet import RegNetConfig
from vitkit.models.resnet import ResNetConfig
from vitkit.models.swin import SwinConfig
from vitkit.models.swinv2 import SwinV2Config
from vitkit.models.vit import ViTConfig
from vitkit.weights.formats.official import CLASS_POSITION
from vitkit.weights.formats.timm_config import HALF, IMAGENET
from vitkit.weights.layout import Layout

VIT = """
cls_token                  embeddings.cls_token
pos_embed                  embeddings.position_embeddings
patch_embed.proj.*         embeddings.patch_embeddings.projection.*
blocks.[i].norm1.*         encoder.layer.[i].layernorm_before.*
blocks.[i].attn.qkv.*      encoder.layer.[i].attention.attention.{query,key,value}.*
blocks.[i].attn.proj.*     encoder.layer.[i].attention.output.dense.*
blocks.[i].norm2.*         encoder.layer.[i].layernorm_after.*
blocks.[i].mlp.fc1.*       encoder.layer.[i].intermediate.dense.*
blocks.[i].mlp.fc2.*       encoder.layer.[i].output.dense.*
norm.*                     layernorm.*
"""
NEWER_VIT = """
cls_token                  embeddings.cls_token
pos_embed                  embeddings.position_embeddings
patch_embed.proj.*         embeddings.patch_embeddings.projection.*
blocks.[i].norm1.*         layers.[i].layernorm_before.*
blocks.[i].attn.qkv.*      layers.[i].attention.{q_proj,k_proj,v_proj}.*
blocks.[i].attn.proj.*     layers.[i].attention.o_proj.*
blocks.[i].norm2.*         layers.[i].layernorm_after.*
blocks.[i].mlp.*           layers.[i].mlp.*
norm.*                     layernorm.*
"""
VIT_HEAD = """
head.*                     classifier.*
"""
# DeiT without its teacher classifies by the class token alone: a ViT with one register.
DEIT_HEAD = """
reg_token                  embeddings.distillation_token
head.*                     classifier.*
"""
DISTILLED_HEADS = """
dist_token                 embeddings.distillation_token
head.*                     cls_classifier.*
head_dist.*                distillation_classifier.*
"""

DINOV2 = """
cls_token                  embeddings.cls_token
pos_embed                  embeddings.position_embeddings
patch_embed.proj.*         embeddings.patch_embeddings.projection.*
blocks.[i].norm1.*         encoder.layer.[i].norm1.*
blocks.[i].attn.qkv.*      encoder.layer.[i].attention.attention.{query,key,value}.*
blocks.[i].attn.proj.*     encoder.layer.[i].attention.output.dense.*
blocks.[i].ls1.gamma       encoder.layer.[i].layer_scale1.lambda1
blocks.[i].norm2.*         encoder.layer.[i].norm2.*
blocks.[i].mlp.*           encoder.layer.[i].mlp.*
blocks.[i].ls2.gamma       encoder.layer.[i].layer_scale2.lambda1
norm.*                     layernorm.*
head.*                     classifier.*
"""
NEWER_DINOV2 = DINOV2.replace(
    "attention.attention.{query,key,value}", "attention.{q_proj,k_proj,v_proj}"
).replace("attention.output.dense", "attention.o_proj")
REGISTERS = """
reg_token                  embeddings.register_tokens
{cls_token,pos_embed}      embeddings.{cls_token,position_embeddings}   : class position
"""

SWIN = """
patch_embed.proj.*                                       embeddings.patch_embeddings.projection.*
patch_embed.norm.*                                       embeddings.norm.*
layers.[i].blocks.[j].norm1.*                            encoder.layers.[i].blocks.[j].layernorm_before.*
layers.[i].blocks.[j].attn.relative_position_bias_table  encoder.layers.[i].blocks.[j].attention.self.relative_position_bias_table
layers.[i].blocks.[j].attn.qkv.*                         encoder.layers.[i].blocks.[j].attention.self.{query,key,value}.*
layers.[i].blocks.[j].attn.proj.*                        encoder.layers.[i].blocks.[j].attention.output.dense.*
layers.[i].blocks.[j].norm2.*                            encoder.layers.[i].blocks.[j].layernorm_after.*
layers.[i].blocks.[j].mlp.fc1.*                          encoder.layers.[i].blocks.[j].intermediate.dense.*
layers.[i].blocks.[j].mlp.fc2.*                          encoder.layers.[i].blocks.[j].output.dense.*
layers.[i+1].downsample.*                                encoder.layers.[i].downsample.*
norm.*                                                   layernorm.*
head.fc.*                                                classifier.*
"""  # noqa: E501
NEWER_SWIN = """
patch_embed.proj.*                                       embeddings.patch_embeddings.projection.*
patch_embed.norm.*                                       embeddings.norm.*
layers.[i].blocks.[j].norm1.*                            encoder.layers.[i].blocks.[j].layernorm_before.*
layers.[i].blocks.[j].attn.relative_position_bias_table  encoder.layers.[i].blocks.[j].attention.relative_position_bias.relative_position_bias_table
layers.[i].blocks.[j].attn.qkv.*                         encoder.layers.[i].blocks.[j].attention.{q_proj,k_proj,v_proj}.*
layers.[i].blocks.[j].attn.proj.*                        encoder.layers.[i].blocks.[j].attention.o_proj.*
layers.[i].blocks.[j].norm2.*                            encoder.layers.[i].blocks.[j].layernorm_after.*
layers.[i].blocks.[j].mlp.*                              encoder.layers.[i].blocks.[j].mlp.*
layers.[i+1].downsample.*                                encoder.layers.[i].downsample.*
norm.*                                                   layernorm.*
head.fc.*                                                classifier.*
"""  # noqa: E501
SWINV2 = """
patch_embed.proj.*                            embeddings.patch_embeddings.projection.*
patch_embed.norm.*                            embeddings.norm.*
layers.[i].blocks.[j].attn.logit_scale        encoder.layers.[i].blocks.[j].attention.self.logit_scale
layers.[i].blocks.[j].attn.cpb_mlp.*          encoder.layers.[i].blocks.[j].attention.self.continuous_position_bias_mlp.*
layers.[i].blocks.[j].attn.qkv.weight         encoder.layers.[i].blocks.[j].attention.self.{query,key,value}.weight
layers.[i].blocks.[j].attn.{q_bias,v_bias}    encoder.layers.[i].blocks.[j].attention.self.{query,value}.bias
layers.[i].blocks.[j].attn.proj.*             encoder.layers.[i].blocks.[j].attention.output.dense.*
layers.[i].blocks.[j].norm1.*                 encoder.layers.[i].blocks.[j].layernorm_before.*
layers.[i].blocks.[j].mlp.fc1.*               encoder.layers.[i].blocks.[j].intermediate.dense.*
layers.[i].blocks.[j].mlp.fc2.*               encoder.layers.[i].blocks.[j].output.dense.*
layers.[i].blocks.[j].norm2.*                 encoder.layers.[i].blocks.[j].layernorm_after.*
layers.[i+1].downsample.*                     encoder.layers.[i].downsample.*
norm.*                                        layernorm.*
head.fc.*                                     classifier.*
"""  # noqa: E501

RESNET = """
conv1.weight                        embedder.embedder.convolution.weight
bn1.*                               embedder.embedder.normalization.*
layer[i+1].[j].conv1.weight         encoder.stages.[i].layers.[j].layer.0.convolution.weight
layer[i+1].[j].bn1.*                encoder.stages.[i].layers.[j].layer.0.normalization.*
layer[i+1].[j].conv2.weight         encoder.stages.[i].layers.[j].layer.1.convolution.weight
layer[i+1].[j].bn2.*                encoder.stages.[i].layers.[j].layer.1.normalization.*
layer[i+1].[j].conv3.weight         encoder.stages.[i].layers.[j].layer.2.convolution.weight
layer[i+1].[j].bn3.*                encoder.stages.[i].layers.[j].layer.2.normalization.*
layer[i+1].[j].downsample.0.weight  encoder.stages.[i].layers.[j].shortcut.convolution.weight
layer[i+1].[j].downsample.1.*       encoder.stages.[i].layers.[j].shortcut.normalization.*
fc.*                                classifier.1.*
"""
REGNET = """
stem.conv.weight                      embedder.embedder.convolution.weight
stem.bn.*                             embedder.embedder.normalization.*
s[i+1].b[j+1].conv1.conv.weight       encoder.stages.[i].layers.[j].layer.0.convolution.weight
s[i+1].b[j+1].conv1.bn.*              encoder.stages.[i].layers.[j].layer.0.normalization.*
s[i+1].b[j+1].conv2.conv.weight       encoder.stages.[i].layers.[j].layer.1.convolution.weight
s[i+1].b[j+1].conv2.bn.*              encoder.stages.[i].layers.[j].layer.1.normalization.*
s[i+1].b[j+1].se.fc1.*                encoder.stages.[i].layers.[j].layer.2.attention.0.*
s[i+1].b[j+1].se.fc2.*                encoder.stages.[i].layers.[j].layer.2.attention.2.*
s[i+1].b[j+1].conv3.conv.weight       encoder.stages.[i].layers.[j].layer.3.convolution.weight
s[i+1].b[j+1].conv3.bn.*              encoder.stages.[i].layers.[j].layer.3.normalization.*
s[i+1].b[j+1].downsample.conv.weight  encoder.stages.[i].layers.[j].shortcut.convolution.weight
s[i+1].b[j+1].downsample.bn.*         encoder.stages.[i].layers.[j].shortcut.normalization.*
head.fc.*                             classifier.1.*
"""

# Of pre-training, or computed from the configuration: no part of the logits.
UNUSED = (
    "pooler.*",
    "embeddings.mask_token",
    "*.relative_position_index",
    "*.relative_coords_table",
    "*.attn_mask",
)
STEPS = {"class position": CLASS_POSITION}
HEADS = ("classifier", "cls_classifier", "distillation_classifier")


SQUASHED = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear", **HALF}
CROPPED = {"crop_pct": 224 / 256, "interpolation": "bicubic", **IMAGENET}


def _layout(family: type[Config], prefix: str, *tables: str, **config: Any) -> Layout:
    return Layout(
        source="huggingface",
        families=(family,),
        table="".join(tables),
        steps=STEPS,
        prefix=f"{prefix}.",
        bare=HEADS,
        ignored=UNUSED,
        config=config,
        resize="bicubic",
        preprocess=SQUASHED if prefix == "vit" else CROPPED,
    )


PLAIN_VIT = {"norm_eps": 1e-12, "registers": 0, "layer_scale": None, "prefix_positions": True}
DEIT = PLAIN_VIT | {"registers": 1}
REGISTERED = {"prefix_positions": False}

# Where a family has two generations of names, the first is the one that is written.
LAYOUTS = (
    _layout(ViTConfig, "vit", VIT, VIT_HEAD, **PLAIN_VIT),
    _layout(ViTConfig, "vit", NEWER_VIT, VIT_HEAD, **PLAIN_VIT),
    _layout(ViTConfig, "deit", VIT, DEIT_HEAD, **DEIT),
    _layout(ViTConfig, "deit", NEWER_VIT, DEIT_HEAD, **DEIT),
    _layout(DeiTConfig, "deit", VIT, DISTILLED_HEADS, **PLAIN_VIT),
    _layout(DeiTConfig, "deit", NEWER_VIT, DISTILLED_HEADS, **PLAIN_VIT),
    _layout(ViTConfig, "dinov2", DINOV2, registers=0, prefix_positions=True),
    _layout(ViTConfig, "dinov2", NEWER_DINOV2, registers=0, prefix_positions=True),
    _layout(ViTConfig, "dinov2_with_registers", REGISTERS, DINOV2, **REGISTERED),
    _layout(ViTConfig, "dinov2_with_registers", REGISTERS, NEWER_DINOV2, **REGISTERED),
    _layout(SwinConfig, "swin", SWIN),
    _layout(SwinConfig, "swin", NEWER_SWIN),
    _layout(SwinV2Config, "swinv2", SWINV2),
    _layout(ResNetConfig, "resnet", RESNET),
    _layout(RegNetConfig, "regnet", REGNET),
)
