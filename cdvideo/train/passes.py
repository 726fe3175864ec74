"""One batch through the text encoder and the UNet to its losses, and its recording as CUDA graphs.

Shapes: `B` samples, `C` latent channels, `h w` latent height and width, `L` text positions.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdvideo.base import Base
from cdvideo.errors import UserNote
from cdvideo.train.batches import Batch
from cdvideo.train.losses import masked_noise_loss
from cdvideo.train.preservation import Preservation


@dataclass(frozen=True)
class Losses:
    """The parts of one batch's loss, before their weights."""

    noise: Tensor
    prior: Tensor
    spl: Tensor

    def values(self) -> Tensor:
        """All three, (3,) fp32, copied, without a gradient."""
        return torch.stack([self.noise, self.prior, self.spl]).detach().float()


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


def pass_inputs(base: Base, batch: Batch, scheduler: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `Pass` takes of a batch, on the base's device."""
    # In fp32 whatever the precision of the passes: the scheduler would round its table of noise levels to that of the latents.
    latents = batch.latents(base).float()
    noise, timesteps, mask, ids = (
        value.to(base.device, non_blocking=True) for value in (batch.noise, batch.timesteps, batch.mask, batch.ids)
    )
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps) if scheduler.config.prediction_type == "v_prediction" else noise
    return noisy, timesteps, target, mask, ids


def batch_losses(base: Base, batch: Batch, forward: nn.Module, scheduler: Any) -> Losses:
    """The losses that `forward`, a `Pass`, gives for a batch."""
    return Losses(*forward(*pass_inputs(base, batch, scheduler)))


def records(device: torch.device, gradient_checkpointing: bool) -> bool:
    """Whether passes are to be recorded: on CUDA, but where layers are computed twice, which a graph cannot hold."""
    return device.type == "cuda" and not gradient_checkpointing


@contextmanager
def recorded(forward: nn.Module, inputs: Sequence[Tensor]) -> Iterator[bool]:
    """Within it, a `Pass` is replayed as CUDA graphs, forwards and backwards, for inputs like these; gives whether it can be.

    A small batch's thousands of kernels take longer to begin one by one than to compute. A graph begins them all at once; they are the
    same kernels. Its gradients lie where the next replay writes them anew, so those of the parameters have to be there, to be added to.
    While CUDA records, no other thread may call upon it.
    """
    device = inputs[0].device
    # Graphs record what the current device does, and launches of another one are lost to them; this makes the inputs' the current one.
    # A recording that fails may leave its own stream current.
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    try:
        with torch.cuda.stream(stream):
            torch.cuda.make_graphed_callables(forward, tuple(value.clone() for value in inputs), allow_unused_input=True)
    except RuntimeError as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"the training's passes cannot be recorded as CUDA graphs, so that steps take longer: {cause}", UserNote, stacklevel=2
        )
        _forget(forward)
        yield False
        return
    try:
        yield True
    finally:
        _forget(forward)


def _forget(forward: nn.Module) -> None:
    """Lets a graph and its memory go: the module's replaced method holds them, and itself."""
    forward.__dict__.pop("forward", None)
    gc.collect()
