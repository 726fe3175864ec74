"""Diffusers' components written in the layout of the original Stable Diffusion checkpoints: the inverse of what loading does.

The names follow the order in which the original networks list their layers; nothing here is taken from diffusers' converter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
_RESNET |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
_TOP = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
_TOP |= {"conv_norm_out": "out.0", "conv_out": "out.2"}


def unet_name(name: str, layers_per_block: int, attention_levels_up: set[int]) -> str:
    """The original name of a UNet parameter."""
    body, _, leaf = name.rpartition(".")
    if body in _TOP:
        return f"{_TOP[body]}.{leaf}"
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
        way, level, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        per_level = layers_per_block + 1
        place = f"input_blocks.{1 + level * per_level + layer}" if way == "down" else f"output_blocks.{level * per_level + layer}"
        return f"{place}.0.{_resnet(rest)}" if kind == "resnets" else f"{place}.1.{rest}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", name):
        return f"input_blocks.{(int(match[1]) + 1) * (layers_per_block + 1)}.0.op.{match[2]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", name):
        level = int(match[1])
        slot = 2 if level in attention_levels_up else 1
        return f"output_blocks.{(level + 1) * (layers_per_block + 1) - 1}.{slot}.conv.{match[2]}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        return f"middle_block.1.{match[3]}" if match[1] == "attentions" else f"middle_block.{2 * int(match[2])}.{_resnet(match[3])}"
    raise AssertionError(name)


def _resnet(rest: str) -> str:
    part, _, leaf = rest.rpartition(".")
    return f"{_RESNET[part]}.{leaf}"


def vae_name(name: str, num_levels: int) -> str:
    """The original name of an autoencoder parameter."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{num_levels - 1 - int(m[1])}.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{num_levels - 1 - int(m[1])}.upsample.", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", name)
    name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("attn_1.group_norm.", "attn_1.norm.")
    name = name.replace("attn_1.to_out.0.", "attn_1.proj_out.")
    return re.sub(r"attn_1\.to_([qkv])\.", r"attn_1.\1.", name)


def checkpoint(unet: Any, vae: Any, text_encoder: Any) -> dict[str, Tensor]:
    """All three components as one original-layout checkpoint. Tensors share the components' memory."""
    result: dict[str, Tensor] = {}
    with_attention = {level for level, kind in enumerate(unet.config.up_block_types) if kind.startswith("CrossAttn")}
    for name, value in unet.state_dict().items():
        result["model.diffusion_model." + unet_name(name, unet.config.layers_per_block, with_attention)] = value
    for name, value in vae.state_dict().items():
        is_attention_matrix = ".attentions." in name and value.ndim == 2
        value = value[:, :, None, None] if is_attention_matrix else value
        result["first_stage_model." + vae_name(name, len(vae.config.block_out_channels))] = value
    for name, value in text_encoder.state_dict().items():
        result["cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")] = value
    return result


def motion_checkpoint(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A MotionAdapter's tensors under AnimateDiff's own names, each position table written once for each attention."""
    result: dict[str, Tensor] = {}
    inner = (("attn1.", "attention_blocks.0."), ("attn2.", "attention_blocks.1."), ("norm1.", "norms.0."), ("norm2.", "norms.1."))
    for name, value in state.items():
        name = re.sub(r"(motion_modules\.\d+)\.", r"\1.temporal_transformer.", name)
        for ours, theirs in (*inner, ("norm3.", "ff_norm.")):
            name = re.sub(rf"(transformer_blocks\.\d+)\.{re.escape(ours)}", rf"\1.{theirs}", name)
        if name.endswith(".pos_embed.pe"):
            for attention in (0, 1):
                result[name.replace("pos_embed.pe", f"attention_blocks.{attention}.pos_encoder.pe")] = value.clone()
        else:
            result[name] = value
    return result
