"""Passes through a model, recorded as CUDA graphs and replayed.

A pass through a motion UNet is more than a thousand kernels, which take longer to begin one by one than many of them to compute. A graph
begins them all at once; they are the same kernels, on other data.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from cdvideo.errors import UserNote, first_line

_Shapes = tuple[tuple[torch.Size, torch.dtype], ...]
BESIDE = -1
"""The priority of streams that work beside another one. PyTorch takes them from a ring of their own: they are none of those of usual
priority, with which they would share what matrix products have for working memory."""

MOST_RECORDED = 8
"""Of one function, for inputs of so many shapes."""


class Recordings:
    """The recordings of several functions on a device, which share memory: only one at a time is replayed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._functions: WeakSet[Recorded] = WeakSet()
        self._places: dict[nn.Module, list[int]] = {}
        self._shared: tuple[Any, torch.cuda.Stream] | None = None

    def of(self, function: Callable[..., Tensor], model: Any) -> Recorded:
        recorded = Recorded(function, model, self)
        self._functions.add(recorded)
        return recorded

    def follow(self, model: nn.Module) -> None:
        """Lets go of all where the model's weights, which recordings read, are no longer where they were when this was last called."""
        places = [value.data_ptr() for value in model.parameters()]
        if self._places.get(model, places) != places:
            self.forget()
        self._places[model] = places

    def forget(self) -> None:
        """Lets go of what was recorded, and of its memory."""
        if self._shared is not None:
            torch.cuda.synchronize(self.device)
        for recorded in self._functions:
            recorded.clear()
        self._places.clear()
        # PyTorch takes a pool for recordings only as long as there are some.
        if self._shared is not None:
            self._shared = None
            torch.cuda.empty_cache()

    def shared(self) -> tuple[Any, torch.cuda.Stream]:
        """The pool of memory of all recordings, and the stream in which they are recorded: PyTorch keeps memory apart by streams."""
        if self._shared is None:
            self._shared = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self.device, priority=BESIDE)
        return self._shared


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
        pool, stream = self.recordings.shared()
        taken, graph = [value.clone() for value in inputs], torch.cuda.CUDAGraph()
        try:
            # The outer stream is the one of before: a recording that fails may leave its own current.
            with (
                torch.cuda.stream(torch.cuda.current_stream(self.recordings.device)),
                torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
            ):
                result = self.compute(*taken)
        except RuntimeError as error:
            # No more is kept of it: the error holds what was recorded so far, with its memory.
            is_short = isinstance(error, torch.OutOfMemoryError)
            failed = "there is not enough memory for it" if is_short else first_line(error)
        else:
            self._computed.add(shapes)
            self._graphs[shapes] = graph, taken, result
            return True
        del graph
        self.recordings.forget()
        self._records = False
        warnings.warn(f"passes cannot be recorded as CUDA graphs, so that they take longer: {failed}", UserNote, stacklevel=2)
        return False
