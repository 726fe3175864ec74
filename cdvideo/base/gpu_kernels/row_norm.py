"""A sum and its LayerNorm, and their gradient. Shapes: `R` rows, `C` channels, `F` frames."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROW_TILE = 2048
"""Values of whole rows that one program normalises."""


@triton.jit
def _sum_norm(
    states, change, weight, bias, positions, of_change, later, total, out, num_rows, width, eps, num_places, num_frames,
    HAS_CHANGE: tl.constexpr, HAS_POSITIONS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_LATER: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    is_column = columns < width
    there = (rows < num_rows)[:, None] & is_column[None, :]
    places = rows[:, None].to(tl.int64) * width + columns[None, :]
    value = tl.load(states + places, mask=there, other=0).to(tl.float32)
    if HAS_CHANGE:
        value += tl.load(change + places, mask=there, other=0).to(tl.float32)
        if HAS_BIAS:
            value += tl.load(of_change + columns, mask=is_column, other=0).to(tl.float32)[None, :]
        rounded = value.to(total.dtype.element_ty)
        if HAS_LATER:
            value += tl.load(later + columns, mask=is_column, other=0).to(tl.float32)[None, :]
            tl.store(total + places, value.to(total.dtype.element_ty), mask=there)
        else:
            tl.store(total + places, rounded, mask=there)
        value = rounded.to(tl.float32)
    mean = tl.sum(value, 1) / width
    apart = tl.where(is_column[None, :], value - mean[:, None], 0)
    value = apart / tl.sqrt(tl.sum(apart * apart, 1) / width + eps)[:, None]
    value = value * tl.load(weight + columns, mask=is_column, other=0).to(tl.float32)[None, :]
    value += tl.load(bias + columns, mask=is_column, other=0).to(tl.float32)[None, :]
    if HAS_POSITIONS:
        frames = (rows // num_places) % num_frames
        value += tl.load(positions + frames[:, None] * width + columns[None, :], mask=there, other=0).to(tl.float32)
    tl.store(out + places, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def _sum_norm_gradient(
    total, weight, of_total, of_normed, out, num_rows, width, eps, HAS_TOTAL: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    is_column = columns < width
    there = (rows < num_rows)[:, None] & is_column[None, :]
    places = rows[:, None].to(tl.int64) * width + columns[None, :]
    value = tl.load(total + places, mask=there, other=0).to(tl.float32)
    apart = tl.where(is_column[None, :], value - (tl.sum(value, 1) / width)[:, None], 0)
    inverse = 1 / tl.sqrt(tl.sum(apart * apart, 1) / width + eps)[:, None]
    normed = apart * inverse
    own = tl.load(of_normed + places, mask=there, other=0).to(tl.float32)
    own = own * tl.load(weight + columns, mask=is_column, other=0).to(tl.float32)[None, :]
    own = (own - (tl.sum(own, 1) / width)[:, None] - normed * (tl.sum(own * normed, 1) / width)[:, None]) * inverse
    if HAS_TOTAL:
        own += tl.load(of_total + places, mask=there, other=0).to(tl.float32)
    tl.store(out + places, own.to(out.dtype.element_ty), mask=there)


class _SumNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        change: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        positions: Tensor | None,
        num_places: int,
        of_change: Tensor | None,
        later: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        width, out = states.shape[-1], torch.empty_like(states)
        # Where nothing is added, the same once more, of which autograd must not see the memory of what came in.
        total = states.detach() if change is None else torch.empty_like(states)
        num_rows, padded = states.numel() // width, triton.next_power_of_2(width)
        tile = max(1, ROW_TILE // padded)
        with torch.cuda.device_of(states):
            _sum_norm[(triton.cdiv(num_rows, tile),)](
                states, states if change is None else change, weight, bias, weight if positions is None else positions,
                weight if of_change is None else of_change, weight if later is None else later, total, out, num_rows, width, eps,
                num_places, 1 if positions is None else len(positions),
                HAS_CHANGE=change is not None, HAS_POSITIONS=positions is not None, HAS_BIAS=of_change is not None,
                HAS_LATER=later is not None, ROWS=tile, WIDTH=padded,
            )  # fmt: skip
        ctx.save_for_backward(total, weight)
        ctx.eps, ctx.has_change = eps, change is not None
        ctx.set_materialize_grads(False)
        return total, out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (total, weight), (of_total, of_normed) = ctx.saved_tensors, grads
        if of_normed is None:
            grad = of_total
        else:
            of_normed, of_total = of_normed.contiguous(), None if of_total is None else of_total.contiguous()
            width, grad = total.shape[-1], torch.empty_like(total)
            num_rows, padded = total.numel() // width, triton.next_power_of_2(width)
            tile = max(1, ROW_TILE // padded)
            with torch.cuda.device_of(total):
                _sum_norm_gradient[(triton.cdiv(num_rows, tile),)](
                    total, weight, of_normed if of_total is None else of_total, of_normed, grad, num_rows, width, ctx.eps,
                    HAS_TOTAL=of_total is not None, ROWS=tile, WIDTH=padded,
                )  # fmt: skip
        return grad, grad if ctx.has_change else None, None, None, None, None, None, None, None


def sum_and_norm(
    states: Tensor,
    change: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    positions: Tensor | None = None,
    num_places: int = 1,
    bias_of_change: Tensor | None = None,
    bias_of_next: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The sum of states and change, both (..., C), and its LayerNorm; without a change, the states and theirs.

    `bias_of_change` (C,) is added to the sum, too. `positions` (F, C) are added to what is normalised; rows are those of `num_places`
    places of a frame, frame after frame. Of a sum that is not to have a gradient, `bias_of_next` (C,) is added to what is returned of it,
    and not to what is normalised. Only states and change are given a gradient.
    """
    assert change is not None or bias_of_change is None
    change, biases = None if change is None else change.contiguous(), (bias_of_change, bias_of_next)
    result: tuple[Tensor, Tensor] = _SumNorm.apply(states.contiguous(), change, weight, bias, eps, positions, num_places, *biases)
    return result
