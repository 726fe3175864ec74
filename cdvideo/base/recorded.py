"""Passes through a model, recorded and replayed: as CUDA graphs on a GPU, as operators on a CPU.

A pass through a motion UNet is more than a thousand kernels, which take longer to begin one by one than many of them to compute. A graph
begins them all at once; they are the same kernels, on other data. On a CPU it is Python, with a small model, that takes a good part of it.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from cdvideo.base.operators import NotRecordable, Recording, form_of, record
from cdvideo.errors import UserNote, first_line

_Shapes = tuple[tuple[Any, ...], ...]
BESIDE = -1
"""The priority of streams that work beside another one. PyTorch takes them from a ring of their own: they are none of those of usual
priority, with which they would share what matrix products have for working memory."""

MOST_RECORDED = 8
"""Of one function, for inputs of so many shapes."""

COMPUTED_BEFORE = {"cuda": 1, "cpu": 48}
"""Calls with inputs of the same shapes before one is recorded, by kind of device. What is built or chosen when something is first computed
cannot be recorded as a graph; writing operators down takes about as long as so many replays gain."""


class Recordings:
    """The recordings of several functions on a device. Graphs share memory: only one at a time is replayed."""

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

    On a CUDA device or a CPU, calls with tensors of the same shapes are recorded once and then replayed, with the same bits: what else they
    read has to stay where it is. It may change there, as weights do, but on a CPU what the function makes of it alone stays as it was when
    that was recorded. Where nothing can be recorded, it is said, and computed as ever. Results are the caller's own.
    """

    def __init__(self, function: Callable[..., Tensor], model: Any, recordings: Recordings) -> None:
        self.compute = functools.partial(function, model)
        self.recordings = recordings
        self._num_computed: Counter[_Shapes] = Counter()
        self._replays: dict[_Shapes, Callable[..., Tensor]] = {}
        self._records = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        kind = inputs[0].device.type
        if kind not in COMPUTED_BEFORE or not self._records or torch.is_autocast_enabled(kind):
            return self.compute(*inputs)
        shapes = tuple(form_of(value) if kind == "cpu" else (value.shape, value.dtype) for value in inputs)
        if shapes in self._replays:
            return self._replays[shapes](*inputs)
        if self._num_computed[shapes] < COMPUTED_BEFORE[kind]:
            self._num_computed[shapes] += 1
            return self.compute(*inputs)
        if len(self._replays) == MOST_RECORDED:
            self.recordings.forget()
            self._num_computed[shapes] = COMPUTED_BEFORE[kind]
        return self._of_operators(shapes, inputs) if kind == "cpu" else self._of_graph(shapes, inputs)

    @property
    def is_recorded(self) -> bool:
        """Whether there are recordings, which read from where things are now."""
        return bool(self._replays)

    def clear(self) -> None:
        self._replays.clear()
        self._num_computed.clear()

    def _of_operators(self, shapes: _Shapes, inputs: tuple[Tensor, ...]) -> Tensor:
        try:
            (result,), recording = record(lambda *values: (self.compute(*values),), inputs)
        except NotRecordable as error:
            # No more is kept of it: the error holds what was computed so far.
            failed = str(error)
        else:
            self._replays[shapes] = functools.partial(_only_result, recording)
            assert result is not None
            return result
        self._records = False
        warnings.warn(f"passes cannot be recorded, so that they take longer: {failed}", UserNote, stacklevel=3)
        return self.compute(*inputs)

    def _of_graph(self, shapes: _Shapes, inputs: tuple[Tensor, ...]) -> Tensor:
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
            self._replays[shapes] = functools.partial(_replayed, graph, taken, result)
            return self._replays[shapes](*inputs)
        del graph
        self.recordings.forget()
        self._records = False
        warnings.warn(f"passes cannot be recorded as CUDA graphs, so that they take longer: {failed}", UserNote, stacklevel=3)
        return self.compute(*inputs)


def _only_result(recording: Recording, *inputs: Tensor) -> Tensor:
    (result,) = recording(*inputs)
    assert result is not None
    return result


def _replayed(graph: torch.cuda.CUDAGraph, taken: Sequence[Tensor], result: Tensor, *inputs: Tensor) -> Tensor:
    """A graph's result, which is copied from its memory, for inputs that are copied into it."""
    for place, value in zip(taken, inputs, strict=True):
        place.copy_(value)
    graph.replay()
    return result.clone()
