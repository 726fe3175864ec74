"""A model's layers on a CPU, computed the way that is fastest there.

PyTorch leaves fp32 matrix products to MKL, which does not use AVX-512 on processors other than Intel's, and has oneDNN bring the weights of
a convolution into its own order anew at every call. Here oneDNN does both where there is AVX-512, else convolutions alone, and keeps the
order of weights that stay as they are. It is the same arithmetic, rounded elsewhere. The operators are those that PyTorch's own compiler
emits (`torch._inductor.mkldnn_ir`).

Where a layer's weight or bias is trained, where operators are cast to another precision, and on other processors, layers compute as
PyTorch's.

Shapes: `B` pictures, `N` rows, `I O` channels in and out, `H W` height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cdvideo.base.computing import computing_as
from cdvideo.base.gpu_layers import fused_layers
from cdvideo.base.short_attention import short_attention

MOST_ORDERED_BYTES = 2**28
"""Of a model's convolutions. A larger model computes on larger pictures, too, and gains little by two more copies of its weights."""
_ORDERED: WeakKeyDictionary[nn.Conv2d, dict[str, tuple[Any, Tensor]]] = WeakKeyDictionary()
"""By convolution and way, "forward" or "backward": which weight it was, and that in oneDNN's order."""


@contextmanager
def quick_layers(*models: nn.Module) -> Iterator[None]:
    """Within it, models compute faster what they compute anyway, with or without gradients: here on a CPU, by `gpu_layers` on a GPU."""
    changed = [pair for model in models for pair in _quick_classes(model)]
    with fused_layers(*models), short_attention(*models), computing_as(changed):
        try:
            yield
        finally:
            for layer, _ in changed:
                if isinstance(layer, nn.Conv2d):
                    _ORDERED.pop(layer, None)


def _quick_classes(model: nn.Module) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    if next(model.parameters()).device.type != "cpu":
        return
    layers = list(model.modules())
    yield from ((layer, _QuickMotionUNet) for layer in layers if type(layer) is UNetMotionModel)
    if not _has_operators():
        return
    convolutions = [layer for layer in layers if type(layer) is nn.Conv2d and _is_plain(layer)]
    if sum(layer.weight.nbytes for layer in convolutions) <= MOST_ORDERED_BYTES:
        yield from ((layer, _QuickConv2d) for layer in convolutions)
    for layer in layers:
        if type(layer) is nn.Linear:
            yield layer, _QuickLinear
        elif type(layer) is GEGLU and type(layer.proj) is nn.Linear:
            yield layer, _QuickGEGLU


def _has_operators() -> bool:
    # On x86 alone: what other processors gain nobody has measured.
    is_x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    names = ("_linear_pointwise", "_convolution_pointwise")
    return is_x86 and torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


def _computes(layer: nn.Linear | nn.Conv2d, states: Tensor, *, in_bf16: bool = False) -> bool:
    """Whether the operators can be called for this layer on these, and stand for PyTorch's.

    Most do so in fp32 alone: the products and convolutions of bf16 are oneDNN's in PyTorch, too, and gain nothing.
    """
    has_dtype = states.dtype == torch.float32 or (in_bf16 and states.dtype == torch.bfloat16 and _has_bf16())
    trains = torch.is_grad_enabled() and (layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad))
    return has_dtype and states.dtype == layer.weight.dtype and not trains and not torch.is_autocast_enabled("cpu")


def _has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _wants_grad(states: Tensor) -> bool:
    return states.requires_grad and torch.is_grad_enabled()


def _beats_mkl() -> bool:
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _product(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., O) of states (..., I), a weight (O, I) and a bias (O,)."""
    if not _beats_mkl():
        return F.linear(states, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states.contiguous(), weight, bias, "none", [], "")
    return product


class _FrozenLinear(torch.autograd.Function):
    """X Wᵀ + b of a weight without a gradient; that of X is G W."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _product(grads[0], ctx.weight.t(), None), None, None


class _QuickLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        if not _computes(self, input):
            return super().forward(input)
        if _wants_grad(input):
            result: Tensor = _FrozenLinear.apply(input, self.weight, self.bias)
            return result
        return _product(input, self.weight, self.bias)


class _QuickGEGLU(GEGLU):
    """Gate and gated by products of their own, so that nothing is computed on every other half row, and in place."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if _wants_grad(hidden_states) or self.proj.bias is None or not _computes(self.proj, hidden_states, in_bf16=True):
            result: Tensor = super().forward(hidden_states, *args, **kwargs)
            return result
        (gated, gate), (gated_bias, gate_bias) = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
        factor = torch.ops.aten.gelu_(_product(hidden_states, gate, gate_bias))
        return _product(hidden_states, gated, gated_bias).mul_(factor)


class _QuickMotionUNet(UNetMotionModel):
    @property
    def dtype(self) -> torch.dtype:
        """Without the walk over all layers that a pass would begin with."""
        return self.conv_in.weight.dtype


class _QuickConv2d(nn.Conv2d):
    """Only with gradients: a clip's many pictures gain a few percent, and what it adds up in another order shows in guided latents."""

    def forward(self, input: Tensor) -> Tensor:
        if not _wants_grad(input) or not _computes(self, input) or self.stride != (1, 1):
            return super().forward(input)
        result: Tensor = _FrozenConvolution.apply(input, self)
        return result


class _FrozenConvolution(torch.autograd.Function):
    """A convolution of stride 1 whose weight has no gradient.

    The gradient of its pictures is another one, of the weight turned round, with what this one lacks of a full padding.
    """

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, layer: nn.Conv2d) -> Tensor:
        assert isinstance(layer.padding, tuple)
        ctx.layer = layer
        return _convolved(pictures, _ordered(layer, "forward", pictures.shape, layer.padding), layer.bias, layer.padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        layer, grad = ctx.layer, grads[0]
        padding = tuple(side - 1 - own for side, own in zip(layer.kernel_size, layer.padding, strict=True))
        return _convolved(grad, _ordered(layer, "backward", grad.shape, padding), None, padding), None


def _convolved(pictures: Tensor, ordered: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(pictures, ordered, bias, padding, (1, 1), (1, 1), 1, "none", [], "")
    return result


def _ordered(layer: nn.Conv2d, way: str, shape: torch.Size, padding: tuple[int, ...]) -> Tensor:
    """The weight in oneDNN's order, made once for as long as the weight is the same; best for pictures (B, I, H, W) like the first ones."""
    kept = _ORDERED.setdefault(layer, {})
    identity = (layer.weight.data_ptr(), layer.weight._version)
    if way not in kept or kept[way][0] != identity:
        weight = layer.weight.detach()
        if way == "backward":
            weight = weight.flip(2, 3).transpose(0, 1).contiguous()
        ordered = torch.ops.aten.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), padding, (1, 1), (1, 1), 1, shape)
        kept[way] = identity, ordered
    return kept[way][1]
