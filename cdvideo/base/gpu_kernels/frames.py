"""Attention between a clip's frames. Shapes: `B` clips, `F` frames, `P` places of a frame, `H` heads, `D` width of a head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _attend_frames(
    query,
    key,
    value,
    out,
    num_frames,
    num_places,
    width,
    stride,
    factor,
    NUM_HEADS: tl.constexpr,
    FRAMES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    head, place = tl.program_id(0) % NUM_HEADS, tl.program_id(0) // NUM_HEADS % num_places
    clip = tl.program_id(0) // NUM_HEADS // num_places
    frames, columns = tl.arange(0, FRAMES), tl.arange(0, WIDTH)
    rows = (clip * num_frames + frames).to(tl.int64) * num_places + place
    own = head * width + columns[None, :]
    places = rows[:, None] * stride + own
    there = (frames < num_frames)[:, None] & (columns < width)[None, :]
    own_query, own_key = tl.load(query + places, mask=there, other=0), tl.load(key + places, mask=there, other=0)
    scores = tl.dot(own_query, tl.trans(own_key), input_precision="ieee") * factor
    scores = tl.where((frames < num_frames)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    own_value = tl.load(value + places, mask=there, other=0)
    result = tl.dot(weights.to(own_value.dtype), own_value, input_precision="ieee")
    tl.store(out + rows[:, None] * (NUM_HEADS * width) + own, result.to(out.dtype.element_ty), mask=there)


def attend_frames(query: Tensor, key: Tensor, value: Tensor, num_heads: int, num_frames: int) -> Tensor:
    """Attention of each place to itself in the other frames: softmax(Q Kᵀ / √D) V of (B F, P, H D), head by head. Has no gradient.

    The three may be parts of one array (B F, P, 3 H D).
    """
    assert query.stride() == key.stride() == value.stride()
    num_rows, num_places, width = query.shape
    own, out = width // num_heads, query.new_empty(query.shape)
    with torch.cuda.device_of(query):
        _attend_frames[(num_rows // num_frames * num_places * num_heads,)](
            query, key, value, out, num_frames, num_places, own, query.stride(1), own**-0.5,
            NUM_HEADS=num_heads, FRAMES=max(16, triton.next_power_of_2(num_frames)), WIDTH=max(16, triton.next_power_of_2(own)),
            num_warps=1,
        )  # fmt: skip
    return out
