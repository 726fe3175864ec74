"""One batch through the text encoder and the UNet to its losses and gradients, and its recordings.

Shapes: `B` samples, `C` latent channels, `h w` latent height and width, `L` text positions.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdvideo.base import Base
from cdvideo.base.operators import NotRecordable, Recording, record
from cdvideo.base.recorded import BESIDE
from cdvideo.errors import UserNote, first_line
from cdvideo.train.batches import Batch, Encode
from cdvideo.train.losses import masked_noise_loss
from cdvideo.train.preservation import Preservation


class Pass(nn.Module):
    """Losses of one batch from one pass through the text encoder; the parts that are not asked for are 0.

    The last `num_prior` samples of a batch are those of prior preservation.
    """

    def __init__(self, base: Base, preservation: Preservation | None, num_prior: int) -> None:
        super().__init__()
        self.text_encoder, self.unet = base.text_encoder, base.unet
        self.preservation, self.num_prior, self.dtype = preservation, num_prior, base.dtype

    def forward(self, noisy: Tensor, timesteps: Tensor, target: Tensor, mask: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, prior and preservation loss, of (B, C, h, w), (B,), (B, C, h, w), (B, h, w) and (B, L)."""
        num_views = len(ids)
        own = num_views - self.num_prior
        if self.preservation is None:
            states = self.text_encoder(ids).last_hidden_state
        else:
            with self.preservation.inputs(self.text_encoder):
                states = self.text_encoder(torch.cat([ids, self.preservation.ids])).last_hidden_state
        noise_pred = self.unet(noisy.to(self.dtype), timesteps, encoder_hidden_states=states[:num_views]).sample.float()
        nothing = torch.zeros((), device=noisy.device)
        return (
            masked_noise_loss(noise_pred[:own], target[:own], mask[:own]),
            F.mse_loss(noise_pred[own:], target[own:]) if self.num_prior else nothing,
            nothing if self.preservation is None else self.preservation.loss(states[num_views:]),
        )


def pass_inputs(base: Base, batch: Batch, scheduler: Any, encode: Encode) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `Pass` takes of a batch, on the base's device."""
    # In fp32 whatever the precision of the passes: the scheduler would round its table of noise levels to that of the latents.
    latents = batch.latents(base.device, encode)
    noise, timesteps, mask, ids = (
        value.to(base.device, non_blocking=True) for value in (batch.noise, batch.timesteps, batch.mask, batch.ids)
    )
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps) if scheduler.config.prediction_type == "v_prediction" else noise
    return noisy, timesteps, target, mask, ids


def inputs_ahead(
    batches: Iterable[Batch], prepare: Callable[[Batch], tuple[Tensor, ...]], device: torch.device, *, beside: bool
) -> Iterator[tuple[Batch, tuple[Tensor, ...]]]:
    """Each batch and its inputs; with `beside` those of the next one are made beside this one's pass, whose kernels leave room on a GPU.

    That takes memory of its own, where else a pass and its inputs use the same in turn.
    """
    if not beside or device.type != "cuda":
        for batch in batches:
            yield batch, prepare(batch)
        return
    stream, waiting = torch.cuda.Stream(device, priority=BESIDE), None
    for batch in batches:
        with torch.cuda.stream(stream):
            inputs, ready = prepare(batch), torch.cuda.Event()
            ready.record(stream)
        if waiting:
            yield _handed_over(*waiting)
        waiting = batch, inputs, ready
    if waiting:
        yield _handed_over(*waiting)


def _handed_over(batch: Batch, inputs: tuple[Tensor, ...], ready: torch.cuda.Event) -> tuple[Batch, tuple[Tensor, ...]]:
    stream = torch.cuda.current_stream(inputs[0].device)
    stream.wait_event(ready)
    for value in inputs:
        value.record_stream(stream)
    return batch, inputs


class Passes:
    """One batch after another: its losses, and the gradients of their weighted sum, over `accumulate`, added to those of the parameters.

    With `records` the first batch's operators are recorded, and replayed for all others: `recording` says what that saves.
    """

    def __init__(
        self,
        forward: Pass,
        parameters: Sequence[nn.Parameter],
        scaler: Any,
        *,
        prior_weight: float,
        spl_weight: float,
        accumulate: int,
        records: bool,
    ) -> None:
        self.forward, self.parameters, self.scaler, self.records = forward, parameters, scaler, records
        self.prior_weight, self.spl_weight, self.accumulate = prior_weight, spl_weight, accumulate
        self.recording: Recording | None = None

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The losses of noise, prior and preservation, (3,) fp32, of what `pass_inputs` returns."""
        if self.records:
            try:
                return self._replayed(inputs)
            except NotRecordable as error:
                warnings.warn(f"the training's passes cannot be recorded, so that steps take longer: {error}", UserNote, stacklevel=2)
                self.records = False
        losses, loss = self._losses(*inputs)
        self.scaler.scale(loss).backward()
        return losses

    def _losses(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise, prior, spl = self.forward(*inputs)
        loss = noise + self.prior_weight * prior + self.spl_weight * spl
        return torch.stack([noise, prior, spl]).detach().float(), loss / self.accumulate

    def _replayed(self, inputs: Sequence[Tensor]) -> Tensor:
        if self.recording is None:
            found, self.recording = record(self._losses_and_gradients, inputs, self.parameters)
        else:
            found = self.recording(*inputs)
        losses, *gradients = found
        for value, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                value.grad = gradient if value.grad is None else value.grad.add_(gradient)
        assert losses is not None
        return losses

    def _losses_and_gradients(self, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        losses, loss = self._losses(*inputs)
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return losses, *_as_added(self.parameters, gradients)


def _as_added(values: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Iterator[Tensor | None]:
    """Gradients as autograd would add them to parameters: each in memory of its own, and there in its parameter's order.

    What changes them in place and fused optimisers take that for granted.
    """
    seen: set[int] = set()
    for value, gradient in zip(values, gradients, strict=True):
        if gradient is not None and (_order(gradient) != _order(value) or gradient.untyped_storage().data_ptr() in seen):
            gradient = torch.empty_like(value).copy_(gradient)
        if gradient is not None:
            seen.add(gradient.untyped_storage().data_ptr())
        yield gradient


def _order(value: Tensor) -> list[int]:
    return [stride for size, stride in zip(value.shape, value.stride(), strict=True) if size != 1]


def records_operators(device: torch.device, dtype: torch.dtype, gradient_checkpointing: bool) -> bool:
    """Whether the operators of passes are to be recorded: on a CPU, but where layers are computed twice, and where losses are scaled."""
    return device.type == "cpu" and dtype != torch.float16 and not gradient_checkpointing


def records_graphs(device: torch.device, gradient_checkpointing: bool) -> bool:
    """Whether passes are to be recorded as CUDA graphs: on CUDA, but where layers are computed twice, which a graph cannot hold."""
    return device.type == "cuda" and not gradient_checkpointing


@contextmanager
def as_graphs(forward: nn.Module, inputs: Sequence[Tensor]) -> Iterator[bool]:
    """Within it, a `Pass` is replayed as CUDA graphs, forwards and backwards, for inputs like these; gives whether it can be.

    A small batch's thousands of kernels take longer to begin one by one than to compute. A graph begins them all at once; they are the
    same kernels. Its gradients lie where the next replay writes them anew, so those of the parameters have to be there, to be added to.
    While CUDA records, no other thread may call upon it.
    """
    device = inputs[0].device
    # Graphs record what the current device does, and launches of another one are lost to them; this makes the inputs' the current one.
    # A recording that fails may leave its own stream current.
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    failed: str | None = None
    try:
        with torch.cuda.stream(stream):
            torch.cuda.make_graphed_callables(
                forward, tuple(value.clone() for value in inputs), num_warmup_iters=1, allow_unused_input=True
            )
    except RuntimeError as error:
        # No more is kept of it: the error holds what was recorded so far, with its memory.
        failed = first_line(error)
    if failed is not None:
        _forget(forward)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        cause = f"the training's passes cannot be recorded as CUDA graphs, so that steps take longer: {failed}"
        warnings.warn(cause, UserNote, stacklevel=2)
    try:
        yield failed is None
    finally:
        _forget(forward)


def _forget(forward: nn.Module) -> None:
    """Lets a graph and its memory go: the module's replaced method holds them, and itself."""
    forward.__dict__.pop("forward", None)
    gc.collect()
