"""What a UNet computes before it looks at the text, once for both halves of guidance, which are the same until then.

Shapes: `B` rows of a pass, `C` latent channels, `F` frames, `H W` latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn


def for_each_half(latents: Tensor, num_rows: int) -> Tensor:
    """(num_rows, C, ...) of latents (B, C, ...): again and again the same rows, where there are fewer. Has no gradient then."""
    if len(latents) == num_rows:
        return latents
    if latents.device.type == "cpu":
        # One operator, which can be recorded; those below fill what is no input's.
        return torch.cat([latents] * (num_rows // len(latents)))
    # Plain copies, in pictures' own order: `repeat` would bring channels-last ones into the other, and `cat` is slow at them.
    is_last = latents.ndim == 4 and not latents.is_contiguous() and latents.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if is_last else torch.contiguous_format
    found = torch.empty((num_rows, *latents.shape[1:]), dtype=latents.dtype, device=latents.device, memory_format=order)
    for part in found.split(len(latents)):
        part.copy_(latents)
    return found


@contextmanager
def computed_once(unet: nn.Module, times: int) -> Iterator[None]:
    """Within it, the UNet's layers before its first cross-attention compute the first of `times` equal parts of their rows, for all."""
    layers = list(_before_text(unet)) if times > 1 else []
    try:
        for layer in layers:
            layer.forward = _of_first(layer.forward, times)
        yield
    finally:
        for layer in layers:
            del layer.forward


def _before_text(unet: Any) -> Iterator[nn.Module]:
    """Those of them that take longer than a copy of what they return."""
    yield unet.conv_in
    first = unet.down_blocks[0]
    yield first.resnets[0]
    attentions = getattr(first, "attentions", None)
    if attentions and isinstance(attentions[0], Transformer2DModel) and not attentions[0].transformer_blocks[0].only_cross_attention:
        yield attentions[0].transformer_blocks[0].attn1


def _of_first(forward: Callable[..., Tensor], times: int) -> Callable[..., Tensor]:
    def computed(*states: Any, **named: Any) -> Tensor:
        num_rows = len(next(iter((*states, *named.values()))))

        def part(value: Any) -> Any:
            return value[: num_rows // times] if isinstance(value, Tensor) and value.ndim and len(value) == num_rows else value

        result = forward(*map(part, states), **{name: part(value) for name, value in named.items()})
        return for_each_half(result, num_rows)

    return computed
