"""diffusers' attention layers, computed by a function of ours.

Shapes: `B` rows, `H` heads, `N` queries, `M` keys, `D` width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(B, N, H D) of queries (B, N, H D), keys and values (B, M, H D), and H."""


def attended_at_once(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """softmax(Q Kᵀ / √D) V of all heads by PyTorch's fused kernel, an `Attend`."""
    parts = (rearrange(states, "b n (h d) -> b h n d", h=num_heads) for states in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(*parts), "b h n d -> b n (h d)")


def is_plain_attention(attn: Any) -> bool:
    """Whether a layer is made of its four matrices alone, as those of Stable Diffusion 1.5 and AnimateDiff are."""
    others = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k, attn.norm_cross)
    return not any(others) and not attn.residual_connection and attn.rescale_output_factor == 1


@contextmanager
def attending_by(attend: Attend, models: Iterable[nn.Module]) -> Iterator[None]:
    """Within it, the models' plain attention layers compute by `attend`."""
    layers = [
        layer
        for model in models
        for layer in model.modules()
        if isinstance(layer, Attention) and type(layer.processor) is AttnProcessor2_0 and is_plain_attention(layer)
    ]
    before = [layer.processor for layer in layers]
    try:
        for layer in layers:
            layer.processor = _PlainAttention(layer.processor, attend)
        yield
    finally:
        for layer, processor in zip(layers, before, strict=True):
            layer.processor = processor


class _PlainAttention:
    """A processor of diffusers' `Attention` without what it does for other models' sake; what has a mask is left to that of before."""

    def __init__(self, before: Any, attend: Attend) -> None:
        self.before, self.attend = before, attend

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any) -> Tensor:
        if any(value is not None for value in others.values()):
            result: Tensor = self.before(attn, hidden_states, encoder_hidden_states, **others)
            return result
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        joined: Tensor = attn.to_out[0](self.attend(attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen), attn.heads))
        return joined
