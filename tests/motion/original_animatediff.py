"""The original AnimateDiff's motion transformer and v1 residual block, written from their description as plain functions.

Guo et al. 2023 (arXiv 2307.04725), section 4.2 and appendix: GroupNorm of each frame, a projection in, per block two temporal
self-attentions and a GEGLU feed-forward, each with a LayerNorm before it and a residual around it, a projection out, and a residual around
the whole. Every attention adds sinusoidal positions to its own normalised input. Weights come under the original files' names.

Shapes: `B` clips, `F` frames, `C` channels, `H W` height and width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

Weights = Mapping[str, Tensor]


def positions(num_frames: int, width: int) -> Tensor:
    """(num_frames, width): sin(f / 10000^(2i/width)) in column 2i, the cosine in column 2i + 1."""
    table = torch.zeros(num_frames, width, dtype=torch.float64)
    for column in range(width):
        angle = torch.arange(num_frames, dtype=torch.float64) / 10000 ** (2 * (column // 2) / width)
        table[:, column] = angle.sin() if column % 2 == 0 else angle.cos()
    return table.float()


def motion_transformer(hidden: Tensor, weights: Weights, prefix: str, *, num_heads: int, num_groups: int) -> Tensor:
    """The module at `prefix` applied to (B, C, F, H, W)."""

    def weight(name: str) -> Tensor:
        return weights[f"{prefix}.temporal_transformer.{name}"]

    clips, _, frames, height, width = hidden.shape
    states = rearrange(hidden, "b c f h w -> (b f) c h w")
    states = F.group_norm(states, num_groups, weight("norm.weight"), weight("norm.bias"), eps=1e-6)
    states = rearrange(states, "(b f) c h w -> (b h w) f c", b=clips)
    states = states @ weight("proj_in.weight").T + weight("proj_in.bias")
    for layer in range(sum(f"{prefix}.temporal_transformer.transformer_blocks.{i}.ff_norm.weight" in weights for i in range(9))):
        block = f"transformer_blocks.{layer}"
        for index in (0, 1):
            normed = _layer_norm(states, weight(f"{block}.norms.{index}.weight"), weight(f"{block}.norms.{index}.bias"))
            placed = normed + positions(frames, normed.shape[-1])
            attention = f"{block}.attention_blocks.{index}"
            query, key, value = (placed @ weight(f"{attention}.to_{name}.weight").T for name in "qkv")
            query, key, value = (rearrange(x, "s f (n d) -> s n f d", n=num_heads) for x in (query, key, value))
            scores = torch.einsum("snfd,sngd->snfg", query, key) / query.shape[-1] ** 0.5
            mixed = rearrange(torch.einsum("snfg,sngd->snfd", scores.softmax(dim=-1), value), "s n f d -> s f (n d)")
            states = states + mixed @ weight(f"{attention}.to_out.0.weight").T + weight(f"{attention}.to_out.0.bias")
        normed = _layer_norm(states, weight(f"{block}.ff_norm.weight"), weight(f"{block}.ff_norm.bias"))
        inner, gate = (normed @ weight(f"{block}.ff.net.0.proj.weight").T + weight(f"{block}.ff.net.0.proj.bias")).chunk(2, dim=-1)
        gated = inner * gate * 0.5 * (1 + torch.erf(gate / 2**0.5))
        states = states + gated @ weight(f"{block}.ff.net.2.weight").T + weight(f"{block}.ff.net.2.bias")
    states = states @ weight("proj_out.weight").T + weight("proj_out.bias")
    return hidden + rearrange(states, "(b h w) f c -> b c f h w", b=clips, h=height, w=width)


def _layer_norm(states: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    mean, variance = states.mean(-1, keepdim=True), states.var(-1, keepdim=True, unbiased=False)
    return (states - mean) / (variance + 1e-5).sqrt() * scale + shift


def v1_residual_block(hidden: Tensor, time: Tensor, weights: Weights, *, num_groups: int) -> Tensor:
    """A residual block as in v1, (B, C, F, H, W) and time features (B, T) in: its norms run over all frames of a clip.

    Weights come under diffusers' names of one ResnetBlock2D, which for these are the original's.
    """
    states = _norm_over_frames(hidden, weights["norm1.weight"], weights["norm1.bias"], num_groups)
    states = _conv_each_frame(F.silu(states), weights["conv1.weight"], weights["conv1.bias"], padding=1)
    shift = F.silu(time) @ weights["time_emb_proj.weight"].T + weights["time_emb_proj.bias"]
    states = states + repeat(shift, "b c -> b c 1 1 1")
    states = _norm_over_frames(states, weights["norm2.weight"], weights["norm2.bias"], num_groups)
    states = _conv_each_frame(F.silu(states), weights["conv2.weight"], weights["conv2.bias"], padding=1)
    if "conv_shortcut.weight" in weights:
        hidden = _conv_each_frame(hidden, weights["conv_shortcut.weight"], weights["conv_shortcut.bias"], padding=0)
    return hidden + states


def _norm_over_frames(hidden: Tensor, scale: Tensor, shift: Tensor, num_groups: int) -> Tensor:
    grouped = rearrange(hidden, "b (g c) f h w -> b g (c f h w)", g=num_groups)
    grouped = (grouped - grouped.mean(-1, keepdim=True)) / (grouped.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    _, _, frames, height, width = hidden.shape
    normed = rearrange(grouped, "b g (c f h w) -> b (g c) f h w", f=frames, h=height, w=width)
    return normed * rearrange(scale, "c -> c 1 1 1") + rearrange(shift, "c -> c 1 1 1")


def _conv_each_frame(hidden: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    frames = F.conv2d(rearrange(hidden, "b c f h w -> (b f) c h w"), weight, bias, padding=padding)
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(hidden))
