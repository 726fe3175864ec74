"""GEGLU's gate, and the product before it. Shapes: `C` channels, `D` channels of what is multiplied."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cdvideo.base.gpu_kernels.tiles import COLUMNS, ROWS, row_grid

try:
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # It is there since Triton 3.4.
    TensorDescriptor = None

PRODUCT_ROWS, PRODUCT_COLUMNS, PRODUCT_DEPTH = 128, 64, 64


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
            _gelu_gate[row_grid(out)](x, out, out.numel() // width, width, ROWS=ROWS, COLUMNS=COLUMNS)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,), grad = ctx.saved_tensors, grads[0].contiguous()
        width, out = x.shape[-1] // 2, torch.empty_like(x)
        with torch.cuda.device_of(x):
            _gelu_gate_gradient[row_grid(grad)](x, grad, out, grad.numel() // width, width, ROWS=ROWS, COLUMNS=COLUMNS)
        return out


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
