"""Attention on a CPU, where PyTorch's fused kernel is slow for short sequences: over a clip's frames, and from cells to words.

Only without gradients: with them the fused kernel is the faster one.

Shapes: `B` rows, `H` heads, `N` queries, `M` keys, `D` width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cdvideo.base.attention import attended_at_once, attending_by

MOST_SCORE_BYTES = 2**24
"""Of the scores of one layer. What has more, such as attention between the cells of a large picture, goes to the fused kernel."""

FEWEST_WITHOUT_FP32 = 64
"""Keys. PyTorch's softmax of shorter rows of bf16 takes up to twice as long as one in fp32 and both conversions."""


def attended(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """softmax(Q Kᵀ / √D) V (Vaswani et al. 2017, equation 1) of (B, N, H D), (B, M, H D) and (B, M, H D), head by head: (B, N, H D)."""
    num_scores = len(query) * num_heads * query.shape[1] * key.shape[1]
    wants_grad = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
    if wants_grad or num_scores * query.element_size() > MOST_SCORE_BYTES:
        return attended_at_once(query, key, value, num_heads)
    width = query.shape[-1] // num_heads
    nothing = torch.empty(1, 1, 1, dtype=query.dtype)
    heads = []
    # Each head is a view of the whole: to join the heads' rows in one product, all would have to be copied.
    for own_query, own_key, own_value in zip(*(states.split(width, dim=-1) for states in (query, key, value)), strict=True):
        scores = torch.baddbmm(nothing, own_query, own_key.transpose(1, 2), beta=0, alpha=width**-0.5)
        if scores.shape[-1] < FEWEST_WITHOUT_FP32:
            scores = scores.float()
        heads.append(torch.bmm(torch.softmax(scores, -1, out=scores).to(value), own_value))
    return torch.cat(heads, dim=-1)


@contextmanager
def short_attention(*models: nn.Module) -> Iterator[None]:
    """Within it, diffusers' attention layers on a CPU compute short sequences by plain matrix products; elsewhere nothing changes."""
    with attending_by(attended, [model for model in models if next(model.parameters()).device.type == "cpu"]):
        yield
