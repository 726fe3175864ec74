"""CUDA graphs of what is computed again and again: one call begins all of its kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cdvideo.errors import UserNote

PLAIN_CALLS = 2
"""Recording takes as long as a call that is not recorded, and what is called less often is not worth it."""


class Replayed:
    """`compute`, tensors in and a tensor or a tuple of them out, without gradients and without anything that waits for the device.

    With `records`, on CUDA, its third call with tensors of one kind is recorded as a graph and replayed from then on: the same kernels on
    the same numbers, which need not be begun one by one. What else `compute` reads has to stay where it is. Where recording fails, which
    is said, and without `records` it is called as it is.
    """

    def __init__(self, compute: Callable[..., Any], *, records: bool) -> None:
        self.compute = compute
        self._records = records
        self._calls: dict[tuple[Any, ...], int] = {}
        self._recordings: dict[tuple[Any, ...], _Recording] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        if not self._records:
            return self.compute(*inputs)
        kind = tuple((value.shape, value.dtype) for value in inputs)
        self._calls[kind] = self._calls.get(kind, 0) + 1
        if self._calls[kind] <= PLAIN_CALLS:
            return self.compute(*inputs)
        if kind not in self._recordings:
            try:
                self._recordings[kind] = _Recording(self.compute, inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                cause = str(error).splitlines()[0]
                warnings.warn(
                    f"what is computed cannot be recorded as a CUDA graph, so that it takes longer: {cause}", UserNote, stacklevel=2
                )
                self._records = False
                return self.compute(*inputs)
        return self._recordings[kind].replay(inputs)


class _Recording:
    """One graph, the tensors that it reads and those that it writes."""

    def __init__(self, compute: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
        self._read = tuple(value.clone() for value in inputs)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._written = compute(*self._read)

    def replay(self, inputs: tuple[Tensor, ...]) -> Any:
        for place, value in zip(self._read, inputs, strict=True):
            place.copy_(value)
        self._graph.replay()
        # The next replay writes there again.
        return tuple(value.clone() for value in self._written) if isinstance(self._written, tuple) else self._written.clone()
