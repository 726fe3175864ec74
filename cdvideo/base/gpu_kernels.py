"""Triton kernels for what surrounds a UNet's matrix products and convolutions on a GPU.

PyTorch normalises pictures of channels-last order by way of a copy in the other order, and reads and writes all of a picture anew for every
small step: the norm, the activation, a bias, a sum. Here each is one pass. Sums are in fp32, and what lies between is not rounded.

This module needs Triton; `gpu_layers` asks first. Arrays are contiguous, whatever the models call their shapes:

Shapes: `N` pictures (or clips, where a norm spans frames), `S` places of each, `C` channels, `G` groups of channels, `R` rows, `F` frames,
`P` places of a frame, `H` heads, `D` width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

try:
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # It is there since Triton 3.4.
    TensorDescriptor = None

COLUMNS = 64
"""Channels that one program reads of a row: 128 bytes in half precision, one line of the cache."""
ROWS = 32
MOST_SPAN = 1024
PROGRAMS = 1024
"""Enough to fill a GPU."""
ROW_TILE = 2048
"""Values of whole rows that one program normalises."""
GATE_ROWS, GATE_COLUMNS = 16, 128
PRODUCT_ROWS, PRODUCT_COLUMNS, PRODUCT_DEPTH = 128, 64, 64
UPSAMPLED_AT_ONCE = 16
"""Pictures. For the quarters of more, cuDNN takes a slow kernel of older GPUs."""


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


@triton.jit
def _gelu_gate(x, out, num_rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (rows < num_rows)[:, None] & (columns < width)[None, :]
    places = rows[:, None].to(tl.int64) * width
    gated = tl.load(x + 2 * places + columns[None, :], mask=there, other=0).to(tl.float32)
    gate = tl.load(x + 2 * places + width + columns[None, :], mask=there, other=0).to(tl.float32)
    value = gated * 0.5 * gate * (1 + tl.math.erf(gate * 0.7071067811865476))
    tl.store(out + places + columns[None, :], value.to(out.dtype.element_ty), mask=there)


@triton.jit
def _gelu_gate_gradient(x, grad, out, num_rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (rows < num_rows)[:, None] & (columns < width)[None, :]
    places = rows[:, None].to(tl.int64) * width
    gated = tl.load(x + 2 * places + columns[None, :], mask=there, other=0).to(tl.float32)
    gate = tl.load(x + 2 * places + width + columns[None, :], mask=there, other=0).to(tl.float32)
    own = tl.load(grad + places + columns[None, :], mask=there, other=0).to(tl.float32)
    share = 0.5 * (1 + tl.math.erf(gate * 0.7071067811865476))
    density = 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    of_gate = own * gated * (share + gate * density)
    tl.store(out + 2 * places + columns[None, :], (own * gate * share).to(out.dtype.element_ty), mask=there)
    tl.store(out + 2 * places + width + columns[None, :], of_gate.to(out.dtype.element_ty), mask=there)


@triton.jit
def _normal_share(value):
    """The normal distribution's share below a value, within 1e-6 (Abramowitz and Stegun 1964, 7.1.28, with z / √2 in its factors)."""
    z = tl.abs(value)
    root = z * (0.0498673470 + z * (0.0211410061 + z * (0.0032776263 + z * (0.0000380036 + z * (0.0000488906 + z * 0.0000053830)))))
    root += 1
    for _ in tl.static_range(5):
        root = root * root
    # 1 / root^16 by way of root^32: a GPU has one instruction for that.
    above = 0.5 * tl.math.rsqrt(root)
    return tl.where(value < 0, above, 1 - above)


@triton.jit
def _gelu_gated_product(
    x, weight, out, bias, num_rows, INNER: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TALL: tl.constexpr,
):  # fmt: skip
    """Each program takes one tile of the result after another, so that one's last steps and the next one's first overlap."""
    across: tl.constexpr = WIDTH // COLUMNS
    down = tl.cdiv(num_rows, ROWS)
    tile = tl.program_id(0)
    while tile < down * across:
        # Tiles that need the same rows are near each other, and so in the cache.
        band = tile // (TALL * across)
        height = tl.minimum(down - band * TALL, TALL)
        row = (band * TALL + tile % (TALL * across) % height) * ROWS
        column = tile % (TALL * across) // height * COLUMNS
        gated, gate = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
        for depth in range(0, INNER, DEPTH):
            own = x.load([row, depth])
            gated = tl.dot(own, weight.load([column, depth]).T, gated)
            gate = tl.dot(own, weight.load([WIDTH + column, depth]).T, gate)
        columns = column + tl.arange(0, COLUMNS)
        gated += tl.load(bias + columns).to(tl.float32)[None, :]
        gate += tl.load(bias + WIDTH + columns).to(tl.float32)[None, :]
        out.store([row, column], (gated * gate * _normal_share(gate)).to(out.dtype))
        tile += tl.num_programs(0)


class _GeluGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        width = x.shape[-1] // 2
        out = x.new_empty((*x.shape[:-1], width))
        with torch.cuda.device_of(x):
            _gelu_gate[_row_grid(out)](x, out, out.numel() // width, width, ROWS=GATE_ROWS, COLUMNS=GATE_COLUMNS)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,), grad = ctx.saved_tensors, grads[0].contiguous()
        width, out = x.shape[-1] // 2, torch.empty_like(x)
        with torch.cuda.device_of(x):
            _gelu_gate_gradient[_row_grid(grad)](x, grad, out, grad.numel() // width, width, ROWS=GATE_ROWS, COLUMNS=GATE_COLUMNS)
        return out


def _row_grid(out: Tensor) -> tuple[int, int]:
    width = out.shape[-1]
    return triton.cdiv(out.numel() // width, GATE_ROWS), triton.cdiv(width, GATE_COLUMNS)


def gelu_gate(x: Tensor) -> Tensor:
    """a GELU(b) of (..., 2 C), whose first half of channels is a and second is b (GEGLU: Shazeer 2020)."""
    result: Tensor = _GeluGate.apply(x)
    return result


def multiplies_gated(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `gelu_gated_product` can be had of these: in half precision, on data centres' GPUs from Hopper on.

    They copy tiles by themselves; later GPUs for desktops do, too, and have no room for three of them at once.
    """
    is_there = TensorDescriptor is not None and (not x.is_cuda or torch.cuda.get_device_capability(x.device)[0] in (9, 10))
    fits = x.shape[-1] % PRODUCT_DEPTH == weight.shape[0] % (2 * PRODUCT_COLUMNS) == 0
    return is_there and fits and bias is not None and x.dtype == weight.dtype and x.dtype in (torch.float16, torch.bfloat16)


def gelu_gated_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`gelu_gate` of X Wᵀ + b, which itself is never written: (..., C) of x (..., D), W (2 C, D) and b (2 C,). Has no gradient."""
    inner, width = x.shape[-1], weight.shape[0] // 2
    num_rows, out = x.numel() // inner, x.new_empty((*x.shape[:-1], width))
    shapes = ([PRODUCT_ROWS, PRODUCT_DEPTH], [PRODUCT_COLUMNS, PRODUCT_DEPTH], [PRODUCT_ROWS, PRODUCT_COLUMNS])
    arrays = (x.contiguous().view(num_rows, inner), weight.contiguous(), out.view(num_rows, width))
    tiles = triton.cdiv(num_rows, PRODUCT_ROWS) * (width // PRODUCT_COLUMNS)
    # So many programs share a multiprocessor: while one of them activates, another one multiplies.
    programs = 2 * torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else tiles
    with torch.cuda.device_of(x):
        _gelu_gated_product[(min(tiles, programs),)](
            *(TensorDescriptor.from_tensor(array, shape) for array, shape in zip(arrays, shapes, strict=True)), bias, num_rows,
            INNER=inner, WIDTH=width, ROWS=PRODUCT_ROWS, COLUMNS=PRODUCT_COLUMNS, DEPTH=PRODUCT_DEPTH, TALL=8, num_warps=4, num_stages=3,
        )  # fmt: skip
    return out


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
        _weights_of_quarters[(num_out, triton.cdiv(num_in, GATE_COLUMNS))](flat, of_quarters, num_out, num_in, COLUMNS=GATE_COLUMNS)
        quarters = of_quarters.permute(0, 3, 1, 2)
        for some, own in zip(pictures.split(UPSAMPLED_AT_ONCE), out.split(UPSAMPLED_AT_ONCE), strict=True):
            found = F.conv2d(some.contiguous(memory_format=torch.channels_last), quarters, padding=1)
            found, num_rows = found.contiguous(memory_format=torch.channels_last), own.numel() // num_out
            _interleave[_row_grid(own)](found, bias, own, num_rows, height, width, num_out, ROWS=GATE_ROWS, COLUMNS=GATE_COLUMNS)
    return out.permute(0, 3, 1, 2)


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
            _sum_bias[_row_grid(out)](one, other, bias, out, out.numel() // width, width, ROWS=GATE_ROWS, COLUMNS=GATE_COLUMNS)
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
        _side_by_side[_row_grid(out)](
            one, other, out, out.numel() // out.shape[-1], one.shape[-1], other.shape[-1], ROWS=GATE_ROWS, COLUMNS=GATE_COLUMNS
        )
    return out
