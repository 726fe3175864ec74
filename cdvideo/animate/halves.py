"""Guidance's halves are one until the text comes in: what a UNet computes before its first cross-attention is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def shared_halves(unet: Any) -> Iterator[None]:
    """Within it, `unet` may be given nothing but batches whose second half repeats the first, in the latents if not in the text.

    What comes out is what would come out without, rounding aside.
    """
    with ExitStack() as stack:
        for module in _before_the_text(unet):
            module.forward = _once_for_both(module.forward)
            stack.callback(module.__dict__.pop, "forward")
        yield


def _before_the_text(unet: Any) -> list[Any]:
    """The modules through which all that text does not reach yet goes."""
    first = unet.down_blocks[0]
    modules = [unet.conv_in, first.resnets[0]]
    if not getattr(first, "has_cross_attention", False):
        return modules
    attention = first.attentions[0]
    block = attention.transformer_blocks[0]
    return [*modules, attention.norm, attention.proj_in, block.norm1, block.attn1]


def _once_for_both(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def once(*args: Any, **kwargs: Any) -> Tensor:
        rows = next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor))

        def halved(value: Any) -> Any:
            return value[: rows // 2] if isinstance(value, Tensor) and len(value) == rows else value

        result = forward(*map(halved, args), **{name: halved(value) for name, value in kwargs.items()})
        return torch.cat([result, result])

    return once
