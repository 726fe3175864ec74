"""A model's layers on an NVIDIA GPU, with few passes over memory between its matrix products and convolutions.

Norms, activations, biases, sums and GEGLU's gate are computed by `gpu_kernels`, in channels-last order throughout, so that nothing is ever
copied from one order into the other. It is the same arithmetic, rounded less often; an upsampling's weights alone are summed first, and
rounded then.

Blocks that differ from Stable Diffusion 1.5's, and those of whose own weights any trains, compute as diffusers has them.

Shapes: `B` pictures, `P` places of one, `C` channels, `H W` height and width.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel, Transformer2DModelOutput
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from cdvideo.base.attention import attended_at_once, attending_by, without_bias
from cdvideo.base.computing import computing_as
from cdvideo.errors import UserNote, first_line

FED_AT_ONCE = 65536
"""Rows that a feed-forward, which is eight times as wide within, is computed of at once."""


def kernels() -> ModuleType:
    """`gpu_kernels`, which only where Triton is can be imported."""
    from cdvideo.base import gpu_kernels

    return gpu_kernels


@functools.cache
def has_kernels(device: torch.device) -> bool:
    """Whether the kernels can be built for this device; where an NVIDIA GPU of their kind cannot, it is said."""
    if device.type != "cuda" or not torch.version.cuda or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return _is_built(lambda: _agrees(device), "Triton cannot build kernels here, so that models compute slower")


def _is_built(agrees: Callable[[], bool], otherwise: str) -> bool:
    """Whether kernels can be built and agree with PyTorch; else `otherwise` is said, and why."""
    try:
        if agrees():
            return True
        failed = "its results are not PyTorch's"
    # Triton is not there, or it finds no C compiler, no driver, or not its own compiler's parts: it has a class for each.
    except Exception as error:
        failed = first_line(error)
    warnings.warn(f"{otherwise}: {failed}", UserNote, stacklevel=3)
    return False


def _agrees(device: torch.device) -> bool:
    states = torch.randn(1, 64, 32, device=device)
    weight, bias = states[0, 0].contiguous(), states[0, 1].contiguous()
    wanted = F.group_norm(states.transpose(1, 2), 4, weight, bias, 1e-5).transpose(1, 2)
    if not torch.allclose(kernels().group_norm(states, 4, weight, bias, 1e-5), wanted, atol=1e-4):
        return False
    pictures, matrix = states.unflatten(1, (8, 8)).permute(0, 3, 1, 2), torch.randn(32, 32, 3, 3, device=device)
    larger = F.conv2d(F.interpolate(pictures, scale_factor=2.0, mode="nearest"), matrix, bias, padding=1)
    # Convolutions of fp32 may be rounded to 10 bits.
    return _is_near(kernels().upsampled(pictures, matrix, bias), larger)


@functools.cache
def _builds_gated_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether that kernel, which asks more of a GPU and of Triton than the others, can be built; where it cannot, it is said."""

    def agrees() -> bool:
        states, matrix, bias = (torch.randn(shape, device=device, dtype=dtype) for shape in ((40, 64), (256, 64), (256,)))
        apart = kernels().gelu_gate(F.linear(states, matrix, bias))
        return _is_near(kernels().gelu_gated_product(states, matrix, bias), apart)

    return _is_built(agrees, "Triton cannot build the gated product here, so that models compute a little slower")


def _is_near(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).norm() < 0.01 * wanted.norm())


@contextmanager
def fused_layers(*models: nn.Module) -> Iterator[None]:
    """Within it, models on an NVIDIA GPU compute faster what they compute anyway, with or without gradients; elsewhere nothing changes."""
    on_gpu = [model for model in models if has_kernels(next(model.parameters()).device)]
    with attending_by(attended_at_once, on_gpu), computing_as([pair for model in on_gpu for pair in _fused_classes(model)]):
        yield


def _fused_classes(model: nn.Module) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    for name, layer in model.named_modules():
        if type(layer) is ResnetBlock2D and _is_plain_resnet(layer):
            yield layer, _FusedResnetBlock
        elif type(layer) is Transformer2DModel and _is_plain_transformer(layer):
            yield layer, _FusedTransformer
        elif type(layer) is BasicTransformerBlock and is_plain_block(layer):
            yield layer, _FusedTransformerBlock
        elif type(layer) is GEGLU and type(layer.proj) is nn.Linear:
            yield layer, _FusedGEGLU
        elif type(layer) is Upsample2D and _is_plain_upsampling(layer):
            yield layer, _FusedUpsample
        elif type(layer) is nn.GroupNorm and name.rpartition(".")[2] == "conv_norm_out" and layer.affine and _is_frozen(layer):
            yield layer, _FusedGroupNorm


def _is_frozen(*layers: nn.Module) -> bool:
    return not any(parameter.requires_grad for layer in layers for parameter in layer.parameters())


def _is_plain_convolution(layer: Any) -> bool:
    of_one = layer.groups == 1 and layer.dilation == layer.stride == (1, 1)
    return of_one and type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


def _is_plain_resnet(block: Any) -> bool:
    convolutions = [layer for layer in (block.conv1, block.conv2, block.conv_shortcut) if layer is not None]
    norms = (block.norm1, block.norm2)
    return (
        block.upsample is block.downsample is None
        and block.time_embedding_norm in ("default", "group")
        and isinstance(block.nonlinearity, nn.SiLU)
        and not block.skip_time_act
        and block.output_scale_factor == 1
        and all(type(norm) is nn.GroupNorm for norm in norms)
        and all(_is_plain_convolution(layer) and layer.bias is not None for layer in convolutions)
        and _is_frozen(*norms, *convolutions, *([] if block.time_emb_proj is None else [block.time_emb_proj]))
    )


def _is_plain_upsampling(layer: Any) -> bool:
    of_nearest = layer.use_conv and not layer.use_conv_transpose and layer.interpolate and layer.norm is None and layer.name == "conv"
    if not of_nearest or not _is_plain_convolution(layer.conv):
        return False
    return layer.conv.kernel_size == (3, 3) and layer.conv.padding == (1, 1) and layer.conv.bias is not None


def _is_plain_transformer(model: Any) -> bool:
    projections = (model.proj_in, model.proj_out)
    return (
        bool(model.is_input_continuous)
        and type(model.norm) is nn.GroupNorm
        and all(type(layer) in (nn.Linear, nn.Conv2d) and layer.bias is not None for layer in projections)
        and _is_frozen(model.norm, *projections)
    )


def is_plain_block(block: Any) -> bool:
    """Whether a transformer block is of norms, two attentions and a feed-forward alone."""
    norms = (block.norm1, block.norm2, block.norm3)
    return (
        block.norm_type == "layer_norm"
        and not block.only_cross_attention
        and not hasattr(block, "fuser")
        and block.attn2 is not None
        and all(type(norm) is nn.LayerNorm and norm.elementwise_affine and norm.bias is not None for norm in norms)
        and _is_frozen(*norms)
    )


def rows_of(pictures: Tensor) -> Tensor:
    """(B, P, C) of (B, C, H, W), a view where these are in channels-last order."""
    return pictures.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(1, 2)


def pictures_of(rows: Tensor, like: Tensor) -> Tensor:
    """(B, C, H, W) in channels-last order of (B, P, C), of the height and width of `like`."""
    return rows.unflatten(1, tuple(like.shape[-2:])).permute(0, 3, 1, 2)


class _FrozenConvolution(torch.autograd.Function):
    """A convolution of stride 1 without a bias, whose weight has no gradient: its pictures need not be kept for one."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
        ctx.weight, ctx.padding, ctx.shape = weight, padding, pictures.shape
        return F.conv2d(pictures, weight, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Only their shape and order are looked at.
        pictures = torch.empty(ctx.shape, dtype=ctx.weight.dtype, device=ctx.weight.device, memory_format=torch.channels_last)
        settings = ((1, 1), ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False))
        found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(grads[0], pictures, ctx.weight, None, *settings)
        return found[0], None, None


def _convolved(pictures: Tensor, layer: nn.Conv2d) -> Tensor:
    """Without its bias."""
    if torch.is_grad_enabled() and pictures.requires_grad:
        result: Tensor = _FrozenConvolution.apply(pictures, layer.weight, layer.padding)
        return result
    return F.conv2d(pictures, layer.weight, padding=layer.padding)


class _FusedResnetBlock(ResnetBlock2D):
    def forward(self, input_tensor: Tensor, temb: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        if temb is not None and temb.requires_grad and torch.is_grad_enabled():
            result: Tensor = super().forward(input_tensor, temb, *args, **kwargs)
            return result
        ops, norm1, norm2 = kernels(), self.norm1, self.norm2
        rows = rows_of(input_tensor)
        hidden = ops.group_norm(rows, norm1.num_groups, norm1.weight, norm1.bias, norm1.eps, silu=True)
        hidden = rows_of(_convolved(pictures_of(hidden, input_tensor), self.conv1))
        added = self.conv1.bias.expand(len(rows), -1)
        if temb is not None:
            added = added + self.time_emb_proj(self.nonlinearity(temb))
        hidden = ops.group_norm(hidden, norm2.num_groups, norm2.weight, norm2.bias, norm2.eps, added=added.contiguous(), silu=True)
        hidden = rows_of(_convolved(pictures_of(hidden, input_tensor), self.conv2))
        bias = self.conv2.bias
        if self.conv_shortcut is not None:
            rows, bias = rows_of(_convolved(input_tensor, self.conv_shortcut)), bias + self.conv_shortcut.bias
        return pictures_of(ops.sum_with_bias(rows, hidden, bias), input_tensor)


def projected(rows: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
    """(B, P, C) after a linear layer, or after a convolution of single places, which is the same."""
    return F.linear(rows, layer.weight.flatten(1), layer.bias)


def projected_onto(before: Tensor, rows: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
    """The sum of `before` and `projected`, (B, P, C). cuBLAS multiplies few channels faster where it does not add a bias."""
    result: Tensor = kernels().sum_with_bias(F.linear(rows, layer.weight.flatten(1)), before, layer.bias)
    return result


class _FusedTransformer(Transformer2DModel):
    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        added_cond_kwargs: Any = None,
        class_labels: Any = None,
        cross_attention_kwargs: Any = None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        unusual = (added_cond_kwargs, class_labels, cross_attention_kwargs, attention_mask, encoder_attention_mask)
        if any(value is not None for value in unusual) or (torch.is_grad_enabled() and self.gradient_checkpointing):
            return super().forward(hidden_states, encoder_hidden_states, timestep, *unusual, return_dict)
        rows = rows_of(hidden_states)
        norm = self.norm
        states = projected(kernels().group_norm(rows, norm.num_groups, norm.weight, norm.bias, norm.eps), self.proj_in)
        for block in self.transformer_blocks:
            states = block(states, encoder_hidden_states=encoder_hidden_states, timestep=timestep)
        result = pictures_of(projected_onto(rows, states, self.proj_out), hidden_states)
        return Transformer2DModelOutput(sample=result) if return_dict else (result,)


class _FusedTransformerBlock(BasicTransformerBlock):
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if attention_mask is not None or encoder_attention_mask is not None or self.pos_embed is not None:
            result: Tensor = super().forward(hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask, *args, **kwargs)
            return result
        states, normed = summed(hidden_states, None, self.norm1)
        change, bias = without_bias(self.attn1, normed)
        states, normed = summed(states, change, self.norm2, bias_of_change=bias)
        return fed_forward(self, states, *without_bias(self.attn2, normed, encoder_hidden_states))


def fed_forward(block: Any, states: Tensor, change: Tensor, bias: Tensor | None) -> Tensor:
    """The sum of all, (B, P, C), (B, P, C) and (C,), and what the block's feed-forward makes of its norm.

    Without gradients that is added by the last product itself, a few pictures at a time.
    """
    if torch.is_grad_enabled() or not _is_plain_feed_forward(block.ff):
        states, normed = summed(states, change, block.norm3, bias_of_change=bias)
        result: Tensor = states + block.ff(normed)
        return result
    gated, _, last = block.ff.net
    states, normed = summed(states, change, block.norm3, bias_of_change=bias, bias_of_next=last.bias)
    at_once = max(1, FED_AT_ONCE // states.shape[1])
    for own, of_normed in zip(states.split(at_once), normed.split(at_once), strict=True):
        own.flatten(0, 1).addmm_(gated(of_normed).flatten(0, 1), last.weight.t())
    return states


def _is_plain_feed_forward(feed_forward: Any) -> bool:
    gated, between, last = feed_forward.net if len(feed_forward.net) == 3 else (None, None, None)
    drops = between is None or (between.training and between.p > 0)
    return isinstance(gated, GEGLU) and not drops and type(last) is nn.Linear and last.bias is not None


def summed(states: Tensor, change: Tensor | None, norm: nn.LayerNorm, **others: Any) -> tuple[Tensor, Tensor]:
    """The sum of both, (B, P, C), and its norm; `others` as for `sum_and_norm`."""
    result: tuple[Tensor, Tensor] = kernels().sum_and_norm(states, change, norm.weight, norm.bias, norm.eps, **others)
    return result


class _FusedGEGLU(GEGLU):
    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        proj, ops = self.proj, kernels()
        result: Tensor
        multiplies = not torch.is_grad_enabled() and ops.multiplies_gated(hidden_states, proj.weight, proj.bias)
        if multiplies and _builds_gated_product(hidden_states.device, hidden_states.dtype):
            result = ops.gelu_gated_product(hidden_states, proj.weight, proj.bias)
        else:
            result = ops.gelu_gate(proj(hidden_states))
        return result


class _FusedGroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4:
            return super().forward(input)
        return pictures_of(kernels().group_norm(rows_of(input), self.num_groups, self.weight, self.bias, self.eps), input)


class _FusedUpsample(Upsample2D):
    def forward(self, hidden_states: Tensor, output_size: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        twice = [2 * side for side in hidden_states.shape[-2:]]
        result: Tensor
        if torch.is_grad_enabled() or not (output_size is None or list(output_size) == twice):
            result = super().forward(hidden_states, output_size, *args, **kwargs)
        else:
            result = kernels().upsampled(hidden_states, self.conv.weight, self.conv.bias)
        return result


@contextmanager
def joined_by_kernel(device: torch.device) -> Iterator[None]:
    """Within it, a UNet's skip connections are joined to its pictures by one pass over memory, on a GPU where no gradient is wanted.

    PyTorch's own kernel is slow at channels-last pictures.
    """
    # Elsewhere all of PyTorch's functions would take longer for nothing.
    if not has_kernels(device):
        yield
        return
    with _JoinedByKernel():
        yield


class _JoinedByKernel(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is torch.cat and (pair := _joinable(*args, **(kwargs or {}))):
            one, other = pair
            return pictures_of(kernels().side_by_side(rows_of(one), rows_of(other)), one)
        return func(*args, **(kwargs or {}))


def _joinable(tensors: Any, dim: int = 0, **others: Any) -> tuple[Tensor, Tensor] | None:
    """Two channels-last pictures, whose channels `torch.cat`, so called, is to join; None for all else."""
    if torch.is_grad_enabled() or others or dim != 1 or len(tensors) != 2:
        return None
    one, other = tensors
    alike = one.ndim == other.ndim == 4 and one.shape[0] == other.shape[0] and one.shape[2:] == other.shape[2:]
    if not alike or one.dtype != other.dtype or one.device != other.device or not has_kernels(one.device):
        return None
    return (one, other) if all(value.is_contiguous(memory_format=torch.channels_last) for value in tensors) else None
