"""Sums and joins of pictures, and upsampling. Shapes: `N` pictures, `C D O` channels, `H W` height and width."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from cdvideo.base.gpu_kernels.tiles import COLUMNS, ROWS, row_grid

UPSAMPLED_AT_ONCE = 16
"""Pictures. For the quarters of more, cuDNN takes a slow kernel of older GPUs."""


@triton.jit
def _weights_of_quarters(weight, out, num_out, num_in, COLUMNS: tl.constexpr):
    of = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < num_in
    for quarter in tl.static_range(4):
        for tap in tl.static_range(4):
            total = tl.zeros([COLUMNS], tl.float32)
            for own in tl.static_range(9):
                # Of three neighbouring rows of the large picture two are one row of the small one: which two, its own place says.
                row = (quarter // 2 + own // 3 + 1) // 2 - quarter // 2
                column = (quarter % 2 + own % 3 + 1) // 2 - quarter % 2
                if row * 2 + column == tap:
                    total += tl.load(weight + (of * 9 + own) * num_in + columns, mask=is_column, other=0).to(tl.float32)
            to = ((quarter * num_out + of).to(tl.int64) * 4 + tap) * num_in + columns
            tl.store(out + to, total.to(out.dtype.element_ty), mask=is_column)


@triton.jit
def _interleave(quarters, bias, out, num_rows, height, width, num_channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (rows < num_rows)[:, None] & (columns < num_channels)[None, :]
    picture, down, across = rows // (4 * height * width), rows // (2 * width) % (2 * height), rows % (2 * width)
    quarter = down % 2 * 2 + across % 2
    # A convolution of an even width, padded on both sides, has one row and column more than its pictures.
    place = (picture.to(tl.int64) * (height + 1) + down // 2 + down % 2) * (width + 1) + across // 2 + across % 2
    value = tl.load(quarters + ((place * 4 + quarter) * num_channels)[:, None] + columns[None, :], mask=there, other=0).to(tl.float32)
    value += tl.load(bias + columns, mask=columns < num_channels, other=0).to(tl.float32)[None, :]
    tl.store(out + rows.to(tl.int64)[:, None] * num_channels + columns[None, :], value.to(out.dtype.element_ty), mask=there)


def upsampled(pictures: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution of pictures (N, C, H, W) of twice the size by nearest neighbours: (N, O, 2 H, 2 W), channels-last. No gradient.

    Each of the four places that a pixel becomes sees 2x2 pixels, with the sums of the weights that meet there: four ninths of the work.
    """
    num_out, num_in = weight.shape[:2]
    (num_pictures, _, height, width), flat = pictures.shape, weight.contiguous(memory_format=torch.channels_last)
    of_quarters = weight.new_empty(4 * num_out, 2, 2, num_in)
    out = pictures.new_empty(num_pictures, 2 * height, 2 * width, num_out)
    with torch.cuda.device_of(pictures):
        _weights_of_quarters[(num_out, triton.cdiv(num_in, COLUMNS))](flat, of_quarters, num_out, num_in, COLUMNS=COLUMNS)
        quarters = of_quarters.permute(0, 3, 1, 2)
        for some, own in zip(pictures.split(UPSAMPLED_AT_ONCE), out.split(UPSAMPLED_AT_ONCE), strict=True):
            found = F.conv2d(some.contiguous(memory_format=torch.channels_last), quarters, padding=1)
            found, num_rows = found.contiguous(memory_format=torch.channels_last), own.numel() // num_out
            _interleave[row_grid(own)](found, bias, own, num_rows, height, width, num_out, ROWS=ROWS, COLUMNS=COLUMNS)
    return out.permute(0, 3, 1, 2)


@triton.jit
def _sum_bias(one, other, bias, out, num_rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (rows < num_rows)[:, None] & (columns < width)[None, :]
    places = rows[:, None].to(tl.int64) * width + columns[None, :]
    total = tl.load(one + places, mask=there, other=0).to(tl.float32) + tl.load(other + places, mask=there, other=0).to(tl.float32)
    total += tl.load(bias + columns, mask=columns < width, other=0).to(tl.float32)[None, :]
    tl.store(out + places, total.to(out.dtype.element_ty), mask=there)


class _SumBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor, bias: Tensor) -> Tensor:
        width, out = one.shape[-1], torch.empty_like(one)
        with torch.cuda.device_of(one):
            _sum_bias[row_grid(out)](one, other, bias, out, out.numel() // width, width, ROWS=ROWS, COLUMNS=COLUMNS)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], grads[0], None


def sum_with_bias(one: Tensor, other: Tensor, bias: Tensor) -> Tensor:
    """The sum of one and other, both (..., C), and a bias (C,), which is given no gradient."""
    result: Tensor = _SumBias.apply(one, other, bias)
    return result


@triton.jit
def _side_by_side(one, other, out, num_rows, width_one, width_other, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    width = width_one + width_other
    there, is_one = (rows < num_rows)[:, None] & (columns < width)[None, :], (columns < width_one)[None, :]
    places = rows[:, None].to(tl.int64)
    first = tl.load(one + places * width_one + columns[None, :], mask=there & is_one, other=0)
    second = tl.load(other + places * width_other + (columns - width_one)[None, :], mask=there & ~is_one, other=0)
    tl.store(out + places * width + columns[None, :], tl.where(is_one, first, second), mask=there)


def side_by_side(one: Tensor, other: Tensor) -> Tensor:
    """(..., C + D) of (..., C) and (..., D). Has no gradient."""
    out = one.new_empty(*one.shape[:-1], one.shape[-1] + other.shape[-1])
    with torch.cuda.device_of(one):
        _side_by_side[row_grid(out)](
            one, other, out, out.numel() // out.shape[-1], one.shape[-1], other.shape[-1], ROWS=ROWS, COLUMNS=COLUMNS
        )
    return out
