"""GroupNorm of channels-last pictures, with what is added before it and SiLU behind it, and its gradient.

Shapes: `N` pictures (or clips, where a norm spans frames), `S` places of each, `C` channels, `G` groups of channels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 64
"""Channels that one program reads of a row: 128 bytes in half precision, one line of the cache."""
ROWS = 32
MOST_SPAN = 1024
PROGRAMS = 1024
"""Enough to fill a GPU."""


@triton.jit
def _silu(value):
    return value / (1 + tl.exp(-value))


@triton.jit
def _moments(x, means, squares, num_places, num_channels, SPAN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of a span of places, each channel's mean and its summed squared distance from it."""
    tile, picture = tl.program_id(0), tl.program_id(2)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < num_channels
    first, last = tile * SPAN, tl.minimum(tile * SPAN + SPAN, num_places)
    base = x + picture.to(tl.int64) * num_places * num_channels
    # Distances from a value of the channel itself: sums of squares of large values of one sign would lose what is sought.
    origin = tl.load(base + first * num_channels + columns, mask=is_column, other=0).to(tl.float32)
    total, squared = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    for turn in range(SPAN // ROWS):
        rows = first + turn * ROWS + tl.arange(0, ROWS)
        there = (rows < last)[:, None] & is_column[None, :]
        value = tl.load(base + rows[:, None] * num_channels + columns[None, :], mask=there, other=0).to(tl.float32)
        distance = tl.where(there, value - origin[None, :], 0)
        total += distance
        squared += distance * distance
    count = (last - first).to(tl.float32)
    mean = tl.sum(total, 0) / count
    to = (picture * tl.num_programs(0) + tile) * num_channels + columns
    tl.store(means + to, origin + mean, mask=is_column)
    tl.store(squares + to, tl.maximum(tl.sum(squared, 0) - count * mean * mean, 0), mask=is_column)


@triton.jit
def _affine(
    means, squares, added, weight, bias, scale, shift, mean_out, deviation_out,
    num_places, num_channels, size, num_tiles, span, eps, HAS_ADDED: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """A group's norm as a factor and a summand of each channel, from the moments of its channels' spans (Chan et al. 1979)."""
    group, picture = tl.program_id(0), tl.program_id(1)
    own = tl.arange(0, WIDTH)
    is_own = own < size
    channels = group * size + own
    tiles = tl.arange(0, TILES)
    there = (tiles < num_tiles)[:, None] & is_own[None, :]
    places = (picture * num_tiles + tiles)[:, None] * num_channels + channels[None, :]
    mean = tl.load(means + places, mask=there, other=0)
    extra = tl.zeros([WIDTH], tl.float32)
    if HAS_ADDED:
        extra = tl.load(added + picture * num_channels + channels, mask=is_own, other=0).to(tl.float32)
        mean += extra[None, :]
    counts = tl.where(there, tl.minimum(num_places - tiles * span, span)[:, None], 0).to(tl.float32)
    count = (num_places * size).to(tl.float32)
    group_mean = tl.sum(mean * counts) / count
    apart = mean - group_mean
    variance = (tl.sum(tl.load(squares + places, mask=there, other=0)) + tl.sum(counts * apart * apart)) / count
    deviation = 1 / tl.sqrt(variance + eps)
    factor = tl.load(weight + channels, mask=is_own, other=0).to(tl.float32) * deviation
    summand = tl.load(bias + channels, mask=is_own, other=0).to(tl.float32) + (extra - group_mean) * factor
    tl.store(scale + picture * num_channels + channels, factor, mask=is_own)
    tl.store(shift + picture * num_channels + channels, summand, mask=is_own)
    # With what was added taken off again: what backward passes compare with x itself.
    tl.store(mean_out + picture * num_channels + channels, group_mean - extra, mask=is_own)
    tl.store(deviation_out + picture * num_channels + channels, deviation + tl.zeros([WIDTH], tl.float32), mask=is_own)


@triton.jit
def _apply(x, scale, shift, out, num_places, num_channels, SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    picture = tl.program_id(2)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < num_channels
    there = (rows < num_places)[:, None] & is_column[None, :]
    start = picture.to(tl.int64) * num_places * num_channels
    places = rows[:, None] * num_channels + columns[None, :]
    factor = tl.load(scale + picture * num_channels + columns, mask=is_column, other=0)
    summand = tl.load(shift + picture * num_channels + columns, mask=is_column, other=0)
    value = tl.load(x + start + places, mask=there, other=0).to(tl.float32) * factor[None, :] + summand[None, :]
    if SILU:
        value = _silu(value)
    tl.store(out + start + places, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def _before_activation(grad, value, SILU: tl.constexpr):
    """The gradient of what SiLU was taken of: g s (1 + z (1 - s)), with s the sigmoid of z."""
    if SILU:
        sigmoid = 1 / (1 + tl.exp(-value))
        grad = grad * sigmoid * (1 + value * (1 - sigmoid))
    return grad


@triton.jit
def _gradient_sums(
    x, grad, scale, shift, mean, deviation, sums, products, num_places, num_channels,
    SILU: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of a span of places, each channel's summed gradient, and its gradient times its normalised value."""
    tile, picture = tl.program_id(0), tl.program_id(2)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < num_channels
    start = picture.to(tl.int64) * num_places * num_channels
    of_channel = picture * num_channels + columns
    factor = tl.load(scale + of_channel, mask=is_column, other=0)
    summand = tl.load(shift + of_channel, mask=is_column, other=0)
    centre = tl.load(mean + of_channel, mask=is_column, other=0)
    inverse = tl.load(deviation + of_channel, mask=is_column, other=0)
    first, last = tile * SPAN, tl.minimum(tile * SPAN + SPAN, num_places)
    total, product = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    for turn in range(SPAN // ROWS):
        rows = first + turn * ROWS + tl.arange(0, ROWS)
        there = (rows < last)[:, None] & is_column[None, :]
        places = rows[:, None] * num_channels + columns[None, :]
        value = tl.load(x + start + places, mask=there, other=0).to(tl.float32)
        own = tl.load(grad + start + places, mask=there, other=0).to(tl.float32)
        own = _before_activation(own, value * factor[None, :] + summand[None, :], SILU)
        total += own
        product += own * (value - centre[None, :]) * inverse[None, :]
    to = (picture * tl.num_programs(0) + tile) * num_channels + columns
    tl.store(sums + to, tl.sum(total, 0), mask=is_column)
    tl.store(products + to, tl.sum(product, 0), mask=is_column)


@triton.jit
def _gradient_affine(
    sums, products, weight, mean, deviation, slope, offset, num_places, num_channels, size, num_tiles,
    WIDTH: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """What a group's mean and deviation give back, as a factor of x and a summand, of each channel."""
    group, picture = tl.program_id(0), tl.program_id(1)
    own = tl.arange(0, WIDTH)
    is_own = own < size
    channels = group * size + own
    tiles = tl.arange(0, TILES)
    there = (tiles < num_tiles)[:, None] & is_own[None, :]
    places = (picture * num_tiles + tiles)[:, None] * num_channels + channels[None, :]
    own_weight = tl.load(weight + channels, mask=is_own, other=0).to(tl.float32)[None, :]
    count = (num_places * size).to(tl.float32)
    of_mean = tl.sum(tl.load(sums + places, mask=there, other=0) * own_weight) / count
    of_value = tl.sum(tl.load(products + places, mask=there, other=0) * own_weight) / count
    centre = tl.load(mean + picture * num_channels + channels, mask=is_own, other=0)
    inverse = tl.load(deviation + picture * num_channels + channels, mask=is_own, other=0)
    factor = -inverse * inverse * of_value
    tl.store(slope + picture * num_channels + channels, factor, mask=is_own)
    tl.store(offset + picture * num_channels + channels, -inverse * of_mean - centre * factor, mask=is_own)


@triton.jit
def _gradient(
    x, grad, scale, shift, slope, offset, out, num_places, num_channels, SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    picture = tl.program_id(2)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < num_channels
    there = (rows < num_places)[:, None] & is_column[None, :]
    start = picture.to(tl.int64) * num_places * num_channels
    places = rows[:, None] * num_channels + columns[None, :]
    of_channel = picture * num_channels + columns
    factor = tl.load(scale + of_channel, mask=is_column, other=0)[None, :]
    summand = tl.load(shift + of_channel, mask=is_column, other=0)[None, :]
    value = tl.load(x + start + places, mask=there, other=0).to(tl.float32)
    own = tl.load(grad + start + places, mask=there, other=0).to(tl.float32)
    own = _before_activation(own, value * factor + summand, SILU) * factor
    own += value * tl.load(slope + of_channel, mask=is_column, other=0)[None, :]
    own += tl.load(offset + of_channel, mask=is_column, other=0)[None, :]
    tl.store(out + start + places, own.to(out.dtype.element_ty), mask=there)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, added: Tensor | None, silu: bool) -> Tensor:
        num_pictures, num_places, num_channels = x.shape
        size = num_channels // num_groups
        span, tiles = _spans(num_pictures, num_places, num_channels)
        blocks = triton.cdiv(num_channels, COLUMNS)
        means, squares = torch.empty((2, num_pictures, tiles, num_channels), dtype=torch.float32, device=x.device)
        scale, shift, mean, deviation = torch.empty((4, num_pictures, num_channels), dtype=torch.float32, device=x.device)
        out = torch.empty_like(x)
        with torch.cuda.device_of(x):
            grid = (tiles, blocks, num_pictures)
            _moments[grid](x, means, squares, num_places, num_channels, SPAN=span, ROWS=ROWS, COLUMNS=COLUMNS)
            _affine[(num_groups, num_pictures)](
                means, squares, weight if added is None else added, weight, bias, scale, shift, mean, deviation,
                num_places, num_channels, size, tiles, span, eps, HAS_ADDED=added is not None,
                WIDTH=max(16, triton.next_power_of_2(size)), TILES=triton.next_power_of_2(tiles),
            )  # fmt: skip
            grid = (triton.cdiv(num_places, ROWS), blocks, num_pictures)
            _apply[grid](x, scale, shift, out, num_places, num_channels, SILU=silu, ROWS=ROWS, COLUMNS=COLUMNS)
        ctx.save_for_backward(x, weight, scale, shift, mean, deviation)
        ctx.num_groups, ctx.silu = num_groups, silu
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, shift, mean, deviation = ctx.saved_tensors
        grad = grads[0].contiguous()
        num_pictures, num_places, num_channels = x.shape
        size = num_channels // ctx.num_groups
        span, tiles = _spans(num_pictures, num_places, num_channels)
        blocks = triton.cdiv(num_channels, COLUMNS)
        sums, products = torch.empty((2, num_pictures, tiles, num_channels), dtype=torch.float32, device=x.device)
        slope, offset = torch.empty((2, num_pictures, num_channels), dtype=torch.float32, device=x.device)
        out = torch.empty_like(x)
        with torch.cuda.device_of(x):
            grid = (tiles, blocks, num_pictures)
            _gradient_sums[grid](
                x, grad, scale, shift, mean, deviation, sums, products, num_places, num_channels,
                SILU=ctx.silu, SPAN=span, ROWS=ROWS, COLUMNS=COLUMNS,
            )  # fmt: skip
            _gradient_affine[(ctx.num_groups, num_pictures)](
                sums, products, weight, mean, deviation, slope, offset, num_places, num_channels, size, tiles,
                WIDTH=max(16, triton.next_power_of_2(size)), TILES=triton.next_power_of_2(tiles),
            )  # fmt: skip
            grid = (triton.cdiv(num_places, ROWS), blocks, num_pictures)
            _gradient[grid](x, grad, scale, shift, slope, offset, out, num_places, num_channels, SILU=ctx.silu, ROWS=ROWS, COLUMNS=COLUMNS)
        return out, None, None, None, None, None, None


def _spans(num_pictures: int, num_places: int, num_channels: int) -> tuple[int, int]:
    """How many places one program sums over, and how many such spans a picture has."""
    of_all = num_pictures * num_places * triton.cdiv(num_channels, COLUMNS)
    span = min(MOST_SPAN, max(ROWS, triton.next_power_of_2(triton.cdiv(of_all, PROGRAMS))))
    return span, triton.cdiv(num_places, span)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, *, added: Tensor | None = None, silu: bool = False
) -> Tensor:
    """GroupNorm of x (N, S, C), to which `added` (N, C) is added before; with `silu`, SiLU of that.

    Only x is given a gradient.
    """
    result: Tensor = _Norm.apply(x, num_groups, weight, bias, eps, added, silu)
    return result
