"""torch.compile for a model that computes one shape again and again."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch

from cdvideo.errors import UserError

BACKEND = "inductor"


class Compiled:
    """A `with` block in which a model is compiled at its first pass, where that is `wanted`; else nothing is different in it.

    On CUDA it becomes graphs, which need no launch of single kernels. Raises UserError where a compiler is missing or fails.
    """

    def __init__(self, module: Any, wanted: bool) -> None:
        self._module, self._wanted = module, wanted
        self._before = module._compiled_call_impl

    def __enter__(self) -> Compiled:
        if self._wanted:
            mode = "reduce-overhead" if self._module.device.type == "cuda" else None
            self._module.compile(backend=BACKEND, dynamic=False, mode=mode)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._module._compiled_call_impl = self._before
        if self._wanted and kind and kind.__module__.startswith(("torch._dynamo", "torch._inductor")):
            cause = " ".join(str(error).split("\n")[:2])
            raise UserError(
                f"the {type(self._module).__name__} cannot be compiled here", cause=cause, remedy="leave --compile out"
            ) from error

    def begin_pass(self) -> None:
        """Says that nobody needs any more what the last pass gave out: graphs write the next pass's results over it."""
        if self._wanted:
            torch.compiler.cudagraph_mark_step_begin()

    def paused(self) -> AbstractContextManager[Any]:
        """A block in which the model computes as if it were not compiled, for other shapes, which are not worth the time."""
        return torch.compiler.set_stance("force_eager") if self._wanted else nullcontext()
