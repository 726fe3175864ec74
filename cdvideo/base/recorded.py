"""Passes through a model, recorded as CUDA graphs and replayed.

A pass through a motion UNet is more than a thousand kernels, which take longer to begin one by one than many of them to compute. A graph
begins them all at once; they are the same kernels, on other data.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cdvideo.errors import UserNote

_Shapes = tuple[tuple[torch.Size, torch.dtype], ...]
BESIDE = -1
"""The priority of streams that work beside another one: such are none of those that PyTorch gives for anything else, with which they would
share what matrix products have for working memory."""

MOST_RECORDED = 8
"""Of one function, for inputs of so many shapes."""


class Recordings:
    """The recordings of several functions, which share memory: only one at a time is replayed."""

    def __init__(self) -> None:
        self._functions: list[Recorded] = []
        self._places: dict[nn.Module, list[int]] = {}
        self._pool: Any = None

    def of(self, function: Callable[..., Tensor], model: Any) -> Recorded:
        recorded = Recorded(function, model, self)
        self._functions.append(recorded)
        return recorded

    def follow(self, model: nn.Module) -> None:
        """Lets go of all where the model's weights, which recordings read, are no longer where they were when this was last called."""
        places = [value.data_ptr() for value in model.parameters()]
        if self._places.setdefault(model, places) != places:
            self._places[model] = places
            self.forget()

    def forget(self) -> None:
        """Lets go of what was recorded, and of its memory."""
        if self._pool is not None:
            torch.cuda.synchronize()
        for recorded in self._functions:
            recorded.clear()
        # PyTorch takes a pool for recordings only as long as there are some.
        if self._pool is not None:
            self._pool = None
            torch.cuda.empty_cache()

    def pool(self) -> Any:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        return self._pool


class Recorded:
    """`function(model, ...)` of tensors, which returns one.

    On a CUDA device calls with tensors of the same shapes are recorded once and then replayed: what else they read has to stay where it is.
    Where that cannot be done, it is said, and computed as ever. Results are copied from the recordings' memory.
    """

    def __init__(self, function: Callable[..., Tensor], model: Any, recordings: Recordings) -> None:
        self.compute = functools.partial(function, model)
        self.recordings = recordings
        self._computed: set[_Shapes] = set()
        self._graphs: dict[_Shapes, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
        self._records = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        if inputs[0].device.type != "cuda" or not self._records:
            return self.compute(*inputs)
        shapes = tuple((value.shape, value.dtype) for value in inputs)
        # What is built or chosen when something is first computed cannot be recorded.
        if shapes not in self._computed or not (shapes in self._graphs or self._record(shapes, inputs)):
            self._computed.add(shapes)
            return self.compute(*inputs)
        graph, taken, result = self._graphs[shapes]
        for place, value in zip(taken, inputs, strict=True):
            place.copy_(value)
        graph.replay()
        return result.clone()

    def clear(self) -> None:
        self._graphs.clear()
        self._computed.clear()

    def _record(self, shapes: _Shapes, inputs: tuple[Tensor, ...]) -> bool:
        if len(self._graphs) == MOST_RECORDED:
            self.recordings.forget()
        device = inputs[0].device
        taken, graph = [value.clone() for value in inputs], torch.cuda.CUDAGraph()
        try:
            # The outer stream is the one of before: a recording that fails may leave its own current.
            with (
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(
                    graph, pool=self.recordings.pool(), stream=torch.cuda.Stream(device, priority=BESIDE), capture_error_mode="thread_local"
                ),
            ):
                result = self.compute(*taken)
        except RuntimeError as error:
            # No more is kept of it: the error holds what was recorded so far, with its memory.
            failed = (str(error).splitlines() or [type(error).__name__])[0]
        else:
            self._graphs[shapes] = graph, taken, result
            return True
        del graph
        self.recordings.forget()
        self._records = False
        warnings.warn(f"passes cannot be recorded as CUDA graphs, so that they take longer: {failed}", UserNote, stacklevel=2)
        return False
