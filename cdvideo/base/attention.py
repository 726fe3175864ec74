"""diffusers' attention layers, computed by a function of ours.

Shapes: `B` rows, `H` heads, `N` queries, `M` keys, `D` width of a head, `C` channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from torch import Tensor, nn

from cdvideo.base.computing import computing_as

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


def queries_keys_values(attn: Any, states: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, N, C), and keys and values (B, M, C) of what is seen.

    Of states that see themselves they are one product, where the matrices lie as `lay_together` lays them and none trains. That does not
    call the three layers: what is hooked to them is not called either.
    """
    if seen is not None or not _lie_together(attn.to_q, attn.to_k, attn.to_v):
        seen = states if seen is None else seen
        return attn.to_q(states), attn.to_k(seen), attn.to_v(seen)
    first = attn.to_q.weight
    joined = first.as_strided((3 * len(first), first.shape[1]), (first.shape[1], 1))
    query, key, value = F.linear(states, joined).chunk(3, dim=-1)
    return query, key, value


def _lie_together(*matrices: Any) -> bool:
    if not all(type(one) is nn.Linear and one.bias is None and not one.weight.requires_grad for one in matrices):
        return False
    first, *others = (one.weight for one in matrices)
    return all(
        other.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and other.storage_offset() == first.storage_offset() + number * first.numel()
        for number, other in enumerate(others, start=1)
    )


def without_bias(attn: Any, states: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """What an attention layer makes of (B, N, C), and the bias (C,) that it lacks, where its caller has to add it."""
    last = attn.to_out[0]
    can_lack = isinstance(attn.processor, _PlainAttention) and type(last) is nn.Linear
    if not can_lack or last.bias is None or last.bias.requires_grad:
        return attn(states, encoder_hidden_states=seen), None
    return attn(states, encoder_hidden_states=seen, with_bias=False), last.bias


@contextmanager
def attending_by(attend: Attend, models: Iterable[nn.Module]) -> Iterator[None]:
    """Within it, the models' plain attention layers compute by `attend`."""
    layers: list[Any] = [
        layer
        for model in models
        for layer in model.modules()
        if type(layer) is Attention and type(layer.processor) is AttnProcessor2_0 and is_plain_attention(layer)
    ]
    before = [layer.processor for layer in layers]
    try:
        for layer in layers:
            layer.processor = _PlainAttention(layer.processor, attend)
        with computing_as((layer, _DirectAttention) for layer in layers):
            yield
    finally:
        for layer, processor in zip(layers, before, strict=True):
            layer.processor = processor


class _DirectAttention(Attention):
    """Calls its processor as it is; diffusers' own reads the processor's signature at every call, to leave out what it does not know."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: Tensor | None = None, **others: Any
    ) -> Tensor:
        result: Tensor = self.processor(self, hidden_states, encoder_hidden_states, attention_mask=attention_mask, **others)
        return result


class _PlainAttention:
    """A processor of diffusers' `Attention` without what it does for other models' sake; what has a mask is left to that of before."""

    def __init__(self, before: Any, attend: Attend) -> None:
        self.before, self.attend = before, attend

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *, with_bias: bool = True, **others: Any
    ) -> Tensor:
        result: Tensor
        if any(value is not None for value in others.values()):
            assert with_bias, "diffusers' own processors always add it"
            result = self.before(attn, hidden_states, encoder_hidden_states, **others)
            return result
        # Without names of their own, so that their memory is free again for the last product.
        attended = self.attend(*queries_keys_values(attn, hidden_states, encoder_hidden_states), attn.heads)
        last = attn.to_out[0]
        result = last(attended) if with_bias else F.linear(attended, last.weight)
        return result
