"""A motion module on an NVIDIA GPU, whose places need not be brought together by frames and taken apart again.

Shapes: `B` clips, `F` frames, `P` places of a frame, `C` channels, `H W` latent height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from cdvideo.base.attention import is_plain_attention, queries_keys_values
from cdvideo.base.computing import computing_as
from cdvideo.base.gpu_layers import (
    fed_forward,
    has_kernels,
    is_plain_block,
    kernels,
    pictures_of,
    projected_onto,
    rows_of,
    summed,
)
from cdvideo.motion.norm import NormPerFrame

MOST_FRAMES = 64
"""Of one clip, that the kernel of attention between frames holds at once."""


@contextmanager
def quick_motion(unet: nn.Module) -> Iterator[None]:
    """Within it, a `UNetMotionModel` on a GPU computes its motion faster where no gradient is wanted; elsewhere nothing changes."""
    if not has_kernels(next(unet.parameters()).device):
        yield
        return
    transformers = [layer for layer in unet.modules() if type(layer) is AnimateDiffTransformer3D and _is_plain(layer)]
    with computing_as((layer, _FusedMotion) for layer in transformers):
        yield


def _is_plain(transformer: Any) -> bool:
    return (
        type(transformer.norm) in (nn.GroupNorm, NormPerFrame)
        and type(transformer.proj_out) is nn.Linear
        and transformer.proj_out.bias is not None
        and all(is_plain_block(block) and block.pos_embed is not None for block in transformer.transformer_blocks)
        and all(
            is_plain_attention(attention) and type(attention.to_out[0]) is nn.Linear
            for block in transformer.transformer_blocks
            for attention in (block.attn1, block.attn2)
        )
    )


class _FusedMotion(AnimateDiffTransformer3D):
    """Places stay in frames' order: each is added its frame's position as it is normalised, and attends to itself in other frames."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        num_frames: int = 1,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        unusual = (encoder_hidden_states, timestep, class_labels, cross_attention_kwargs)
        if torch.is_grad_enabled() or num_frames > MOST_FRAMES or any(value is not None for value in unusual):
            result: Tensor = super().forward(hidden_states, *unusual[:3], num_frames, cross_attention_kwargs)
            return result
        rows, norm = rows_of(hidden_states), self.norm
        over = rows if isinstance(norm, NormPerFrame) else rows.unflatten(0, (-1, num_frames)).flatten(1, 2)
        states = kernels().group_norm(over, norm.num_groups, norm.weight, norm.bias, norm.eps).view_as(rows)
        states = self.proj_in(states)
        for block in self.transformer_blocks:
            states = _moved(block, states, num_frames)
        return pictures_of(projected_onto(rows, states, self.proj_out), hidden_states)


def _moved(block: Any, states: Tensor, num_frames: int) -> Tensor:
    """(B F, P, C) after a transformer block of a motion module."""
    where = {"positions": block.pos_embed.pe[0, :num_frames], "num_places": states.shape[1]}
    states, normed = summed(states, None, block.norm1, **where)
    change, bias = _attended(block.attn1, normed, num_frames)
    states, normed = summed(states, change, block.norm2, bias_of_change=bias, **where)
    return fed_forward(block, states, *_attended(block.attn2, normed, num_frames))


def _attended(attention: Any, states: Tensor, num_frames: int) -> tuple[Tensor, Tensor | None]:
    """(B F, P, C) after attention between frames, but for the bias (C,) of its last product."""
    attended = kernels().attend_frames(*queries_keys_values(attention, states), attention.heads, num_frames)
    last = attention.to_out[0]
    return F.linear(attended, last.weight), last.bias
