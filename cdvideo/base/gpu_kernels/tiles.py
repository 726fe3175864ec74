"""Tiles of rows that programs take, where each value of a row is for itself."""

from __future__ import annotations

import triton
from torch import Tensor

ROWS, COLUMNS = 16, 128


def row_grid(out: Tensor) -> tuple[int, int]:
    """Programs down and across an array (..., C)."""
    width = out.shape[-1]
    return triton.cdiv(out.numel() // width, ROWS), triton.cdiv(width, COLUMNS)
