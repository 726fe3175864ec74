"""Attention on a CPU, where PyTorch's fused kernel is slow for short sequences: over a clip's frames, and from cells to words.

Only without gradients: with them the fused kernel is the faster one.

Shapes: `B` rows, `H` heads, `N` queries, `M` keys, `D` width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from torch import Tensor, nn

from cdvideo.base.gpu_layers import is_plain_attention

MOST_SCORE_BYTES = 2**24
"""Of the scores of one layer. What has more, such as attention between the cells of a large picture, goes to the fused kernel."""

FEWEST_WITHOUT_FP32 = 64
"""Keys. PyTorch's softmax of shorter rows of bf16 takes up to twice as long as one in fp32 and both conversions."""


def attended(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """softmax(Q Kᵀ / √D) V (Vaswani et al. 2017, equation 1) of (B, N, H D), (B, M, H D) and (B, M, H D), head by head: (B, N, H D)."""
    num_scores = len(query) * num_heads * query.shape[1] * key.shape[1]
    wants_grad = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
    if wants_grad or num_scores * query.element_size() > MOST_SCORE_BYTES:
        parts = (rearrange(states, "b n (h d) -> b h n d", h=num_heads) for states in (query, key, value))
        return rearrange(F.scaled_dot_product_attention(*parts), "b h n d -> b n (h d)")
    width = query.shape[-1] // num_heads
    nothing = torch.empty(1, 1, 1, dtype=query.dtype)
    heads = []
    # Each head is a view of the whole: to join the heads' rows in one product, all would have to be copied.
    for own_query, own_key, own_value in zip(*(states.split(width, dim=-1) for states in (query, key, value)), strict=True):
        scores = torch.baddbmm(nothing, own_query, own_key.transpose(1, 2), beta=0, alpha=width**-0.5)
        if scores.shape[-1] < FEWEST_WITHOUT_FP32:
            scores = scores.float()
        heads.append(torch.bmm(scores.softmax(-1).to(value), own_value))
    return torch.cat(heads, dim=-1)


class _ShortAttention:
    """A processor of diffusers' `Attention` that computes by `attended`; what has a mask is left to the processor of before."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any) -> Tensor:
        if any(value is not None for value in others.values()):
            result: Tensor = self.before(attn, hidden_states, encoder_hidden_states, **others)
            return result
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        joined: Tensor = attn.to_out[0](attended(attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen), attn.heads))
        return joined


@contextmanager
def short_attention(*models: nn.Module) -> Iterator[None]:
    """Within it, diffusers' attention layers on a CPU compute short sequences by plain matrix products; elsewhere nothing changes."""
    changed = []
    for model in models:
        if next(model.parameters()).device.type != "cpu":
            continue
        for layer in model.modules():
            if isinstance(layer, Attention) and type(layer.processor) is AttnProcessor2_0 and is_plain_attention(layer):
                changed.append((layer, layer.processor))
                layer.processor = _ShortAttention(layer.processor)
    try:
        yield
    finally:
        for layer, before in changed:
            layer.processor = before
