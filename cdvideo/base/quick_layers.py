"""A model's layers on a CPU, computed the way that is fastest there.

PyTorch leaves fp32 matrix products to MKL, which does not use AVX-512 on processors other than Intel's, and has oneDNN bring the weights of
a convolution into its own order anew at every call. Here oneDNN does both, and keeps the order of weights that stay as they are. It is
the same arithmetic, rounded elsewhere. The operators are those that PyTorch's own compiler emits (`torch._inductor.mkldnn_ir`).

Where a layer's weight is trained, where operators are cast to another precision, and on other devices, layers compute as PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

from cdvideo.base.short_attention import short_attention

MOST_ORDERED_BYTES = 2**28
"""Of a model's convolutions. A larger model computes on larger pictures, too, and gains little by a second copy of its weights."""
GEGLU_DTYPES = (torch.float32, torch.bfloat16)
"""Other layers compute so in fp32 alone: the products and convolutions of bf16 are oneDNN's in PyTorch, too, and gain nothing."""


@contextmanager
def quick_layers(*models: nn.Module) -> Iterator[None]:
    """Within it, models on a CPU compute faster what they compute anyway, with or without gradients; elsewhere nothing changes."""
    changed: list[tuple[nn.Module, type[nn.Module]]] = []
    with short_attention(*models):
        try:
            for model in models:
                for layer, quick in _quick_classes(model):
                    changed.append((layer, type(layer)))
                    layer.__class__ = quick
            yield
        finally:
            for layer, before in changed:
                layer.__class__ = before
                layer.__dict__.pop("ordered", None)


def _quick_classes(model: nn.Module) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    if not _has_operators() or next(model.parameters()).device.type != "cpu":
        return
    layers = list(model.modules())
    convolutions = [layer for layer in layers if type(layer) is nn.Conv2d and _is_plain(layer)]
    if sum(layer.weight.nbytes for layer in convolutions) <= MOST_ORDERED_BYTES:
        yield from ((layer, _QuickConv2d) for layer in convolutions)
    for layer in layers:
        if type(layer) is nn.Linear:
            yield layer, _QuickLinear
        elif type(layer) is GEGLU:
            yield layer, _QuickGEGLU


def _has_operators() -> bool:
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise")
    )


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


def _computes(states: Tensor, weight: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> bool:
    """Whether the operators can be called with these, and stand for PyTorch's."""
    return states.dtype == weight.dtype and states.dtype in dtypes and not weight.requires_grad and not torch.is_autocast_enabled("cpu")


def _wants_grad(states: Tensor) -> bool:
    return states.requires_grad and torch.is_grad_enabled()


def _product(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states.contiguous(), weight, bias, "none", [], "")
    return product


class _FrozenLinear(torch.autograd.Function):
    """X Wᵀ + b of a weight without a gradient; that of X is G W."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(states, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _product(grads[0], ctx.weight.t(), None), None, None


class _QuickLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        if not _computes(input, self.weight):
            return super().forward(input)
        if _wants_grad(input):
            result: Tensor = _FrozenLinear.apply(input, self.weight, self.bias)
            return result
        return _product(input, self.weight, self.bias)


class _QuickGEGLU(GEGLU):
    """Gate and gated by products of their own, so that nothing is computed on every other half row, and in place."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        weight, bias = self.proj.weight, self.proj.bias
        if not _computes(hidden_states, weight, GEGLU_DTYPES) or _wants_grad(hidden_states) or bias is None:
            result: Tensor = super().forward(hidden_states, *args, **kwargs)
            return result
        (gated, gate), (gated_bias, gate_bias) = weight.chunk(2), bias.chunk(2)
        factor = torch.ops.aten.gelu_(_product(hidden_states, gate, gate_bias))
        return _product(hidden_states, gated, gated_bias).mul_(factor)


class _QuickConv2d(nn.Conv2d):
    """Only with gradients: a clip's many pictures gain a few percent, and what it adds up in another order shows in guided latents."""

    def forward(self, input: Tensor) -> Tensor:
        if not _wants_grad(input) or not _computes(input, self.weight) or self.stride != (1, 1):
            return super().forward(input)
        result: Tensor = _FrozenConvolution.apply(input, self)
        return result

    def convolved(self, pixels: Tensor) -> Tensor:
        assert isinstance(self.padding, tuple)
        return self._convolve(pixels, "forward", self.bias, self.padding)

    def input_grad(self, grad: Tensor) -> Tensor:
        """Another convolution, of the weights turned round, with what this one lacks of a full padding."""
        assert isinstance(self.padding, tuple)
        padding = tuple(side - 1 - own for side, own in zip(self.kernel_size, self.padding, strict=True))
        return self._convolve(grad, "backward", None, padding)

    def _convolve(self, pixels: Tensor, way: str, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        weight = self._ordered(way, pixels.shape, padding)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(pixels, weight, bias, padding, (1, 1), (1, 1), 1, "none", [], "")
        return result

    def _ordered(self, way: str, shape: torch.Size, padding: tuple[int, ...]) -> Tensor:
        """The weight in oneDNN's order for pictures of this shape, made once for as long as the weight is the same."""
        kept = self.__dict__.setdefault("ordered", {})
        known_as, ordered = kept.get(way, (None, None))
        name = (self.weight.data_ptr(), self.weight._version)
        if known_as != name:
            weight = self.weight.detach()
            if way == "backward":
                weight = weight.flip(2, 3).transpose(0, 1).contiguous()
            ordered = torch.ops.aten.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), padding, (1, 1), (1, 1), 1, shape)
            kept[way] = name, ordered
        return ordered


class _FrozenConvolution(torch.autograd.Function):
    """A convolution of stride 1 whose weight has no gradient."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, layer: _QuickConv2d) -> Tensor:
        ctx.layer = layer
        return layer.convolved(pixels)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.input_grad(grads[0]), None
