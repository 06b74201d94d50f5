"""Google's names, as in the `.npz` files of the ViT papers, of AugReg and of big_vision."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitkit.models.hybrid import HybridConfig
from vitkit.models.vit import ViTConfig
from vitkit.weights.formats.timm_config import HALF
from vitkit.weights.layout import Layout, Step, Tensors

# The paper's code counts the parts of a block on, big_vision counts each kind anew.
VIT = """
cls_token                   cls
patch_embed.proj.weight     embedding/kernel                                                    : image kernel
patch_embed.proj.bias       embedding/bias
pos_embed                   Transformer/posembed_input/pos_embedding
blocks.[i].norm1.weight     Transformer/encoderblock_[i]/LayerNorm_0/scale
blocks.[i].norm1.bias       Transformer/encoderblock_[i]/LayerNorm_0/bias
blocks.[i].attn.qkv.weight  Transformer/encoderblock_[i]/MultiHeadDotProductAttention_1/{query,key,value}/kernel : into heads
blocks.[i].attn.qkv.bias    Transformer/encoderblock_[i]/MultiHeadDotProductAttention_1/{query,key,value}/bias   : bias of heads
blocks.[i].attn.proj.weight  Transformer/encoderblock_[i]/MultiHeadDotProductAttention_1/out/kernel               : out of heads
blocks.[i].attn.proj.bias   Transformer/encoderblock_[i]/MultiHeadDotProductAttention_1/out/bias
blocks.[i].norm2.weight     Transformer/encoderblock_[i]/LayerNorm_2/scale
blocks.[i].norm2.bias       Transformer/encoderblock_[i]/LayerNorm_2/bias
blocks.[i].mlp.fc1.weight   Transformer/encoderblock_[i]/MlpBlock_3/Dense_0/kernel              : transpose
blocks.[i].mlp.fc1.bias     Transformer/encoderblock_[i]/MlpBlock_3/Dense_0/bias
blocks.[i].mlp.fc2.weight   Transformer/encoderblock_[i]/MlpBlock_3/Dense_1/kernel              : transpose
blocks.[i].mlp.fc2.bias     Transformer/encoderblock_[i]/MlpBlock_3/Dense_1/bias
norm.weight                 Transformer/encoder_norm/scale
norm.bias                   Transformer/encoder_norm/bias
head.weight                 head/kernel                                                         : transpose
head.bias                   head/bias
"""  # noqa: E501
BIG_VISION = (
    VIT.replace("Transformer/posembed_input/pos_embedding", "pos_embedding")
    .replace("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0")
    .replace("LayerNorm_2", "LayerNorm_1")
    .replace("MlpBlock_3", "MlpBlock_0")
)
STEM = """
patch_embed.backbone.conv.weight  conv_root/kernel  : image kernel
patch_embed.backbone.norm.weight  gn_root/scale     : of each channel
patch_embed.backbone.norm.bias    gn_root/bias      : of each channel
"""
HYBRID = """
patch_embed.backbone.stem.conv.weight                               conv_root/kernel                     : image kernel
patch_embed.backbone.stem.norm.weight                               gn_root/scale                        : of each channel
patch_embed.backbone.stem.norm.bias                                 gn_root/bias                         : of each channel
patch_embed.backbone.stages.[i].blocks.[j].downsample.conv.weight   block[i+1]/unit[j+1]/conv_proj/kernel  : image kernel
patch_embed.backbone.stages.[i].blocks.[j].downsample.norm.weight   block[i+1]/unit[j+1]/gn_proj/scale     : of each channel
patch_embed.backbone.stages.[i].blocks.[j].downsample.norm.bias     block[i+1]/unit[j+1]/gn_proj/bias      : of each channel
patch_embed.backbone.stages.[i].blocks.[j].conv1.weight             block[i+1]/unit[j+1]/conv1/kernel      : image kernel
patch_embed.backbone.stages.[i].blocks.[j].norm1.weight             block[i+1]/unit[j+1]/gn1/scale         : of each channel
patch_embed.backbone.stages.[i].blocks.[j].norm1.bias               block[i+1]/unit[j+1]/gn1/bias          : of each channel
patch_embed.backbone.stages.[i].blocks.[j].conv2.weight             block[i+1]/unit[j+1]/conv2/kernel      : image kernel
patch_embed.backbone.stages.[i].blocks.[j].norm2.weight             block[i+1]/unit[j+1]/gn2/scale         : of each channel
patch_embed.backbone.stages.[i].blocks.[j].norm2.bias               block[i+1]/unit[j+1]/gn2/bias          : of each channel
patch_embed.backbone.stages.[i].blocks.[j].conv3.weight             block[i+1]/unit[j+1]/conv3/kernel      : image kernel
patch_embed.backbone.stages.[i].blocks.[j].norm3.weight             block[i+1]/unit[j+1]/gn3/scale         : of each channel
patch_embed.backbone.stages.[i].blocks.[j].norm3.bias               block[i+1]/unit[j+1]/gn3/bias          : of each channel
"""  # noqa: E501
MAP_HEAD = """
attn_pool.latent            MAPHead_0/probe
attn_pool.q.weight          MAPHead_0/MultiHeadDotProductAttention_0/query/kernel               : into heads
attn_pool.q.bias            MAPHead_0/MultiHeadDotProductAttention_0/query/bias                 : bias of heads
attn_pool.kv.weight         MAPHead_0/MultiHeadDotProductAttention_0/{key,value}/kernel         : into heads
attn_pool.kv.bias           MAPHead_0/MultiHeadDotProductAttention_0/{key,value}/bias           : bias of heads
attn_pool.proj.weight       MAPHead_0/MultiHeadDotProductAttention_0/out/kernel                 : out of heads
attn_pool.proj.bias         MAPHead_0/MultiHeadDotProductAttention_0/out/bias
attn_pool.norm.weight       MAPHead_0/LayerNorm_0/scale
attn_pool.norm.bias         MAPHead_0/LayerNorm_0/bias
attn_pool.mlp.fc1.weight    MAPHead_0/MlpBlock_0/Dense_0/kernel                                 : transpose
attn_pool.mlp.fc1.bias      MAPHead_0/MlpBlock_0/Dense_0/bias
attn_pool.mlp.fc2.weight    MAPHead_0/MlpBlock_0/Dense_1/kernel                                 : transpose
attn_pool.mlp.fc2.bias      MAPHead_0/MlpBlock_0/Dense_1/bias
"""  # noqa: E501


STEPS = {
    "transpose": Step(
        read=lambda tensors: [tensors[0].T],
        write=lambda tensors, config: [tensors[0].T],
    ),
    "image kernel": Step(  # (height, width, in, out) there, (out, in, height, width) here
        read=lambda tensors: [tensors[0].permute(3, 2, 0, 1)],
        write=lambda tensors, config: [tensors[0].permute(2, 3, 1, 0)],
    ),
    "of each channel": Step(  # (1, 1, 1, C)
        read=lambda tensors: [tensors[0].flatten()],
        write=lambda tensors, config: [tensors[0].view(1, 1, 1, -1)],
    ),
    "into heads": Step(  # (D, H, D/H) of each of query, key and value; (n D, D)
        read=lambda tensors: [torch.cat([t.flatten(1).T for t in tensors])],
        write=lambda tensors, config: [
            t.T.unflatten(1, (config.num_heads, -1)) for t in _of_each(tensors[0], config)
        ],
    ),
    "bias of heads": Step(  # (H, D/H) of each; (n D,)
        read=lambda tensors: [torch.cat([t.flatten() for t in tensors])],
        write=lambda tensors, config: [
            t.unflatten(0, (config.num_heads, -1)) for t in _of_each(tensors[0], config)
        ],
    ),
    "out of heads": Step(  # (H, D/H, D); (D, D)
        read=lambda tensors: [tensors[0].flatten(0, 1).T],
        write=lambda tensors, config: [tensors[0].T.unflatten(0, (config.num_heads, -1))],
    ),
}


def _of_each(tensor: Tensor, config: Any) -> Sequence[Tensor]:
    """What belongs to each of query, key and value."""
    parts: tuple[Tensor, ...] = tensor.split(config.dim)
    return parts


def unstacked(tensors: Tensors) -> Tensors:
    """One name for each block, where big_vision has all blocks in one tensor."""
    stacked = "Transformer/encoderblock/"
    named: Tensors = {}
    for key, tensor in tensors.items():
        if key.startswith(stacked) and tensor.ndim:
            rest = key.removeprefix(stacked)
            named |= {f"Transformer/encoderblock_{i}/{rest}": t for i, t in enumerate(tensor)}
        else:
            named[key] = tensor
    return named


WRAPPERS = ("opt/target/", "params/", "img/")
NUMERICS = {"activation": "gelu_tanh"}  # Flax's GELU; its LayerNorm's 1e-6 is ours
EVALUATION = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear", **HALF}
HYBRIDS = NUMERICS | {"epsilons": "google"}


def _layout(*tables: str, **config: Any) -> Layout:
    hybrid = "epsilons" in config
    return Layout(
        source="google",
        families=(HybridConfig,) if hybrid else (ViTConfig,),
        table="".join(tables),
        steps=STEPS,
        wrappers=WRAPPERS,
        ignored=("pre_logits/*",),
        config=config,
        resize="linear_corners",
        preprocess=EVALUATION,
        prepare=unstacked,
    )


LAYOUTS = (
    _layout(VIT, **NUMERICS),
    _layout(BIG_VISION, MAP_HEAD, **NUMERICS),
    _layout(VIT, STEM, **HYBRIDS),
    _layout(VIT, HYBRID, **HYBRIDS),
)
