"""The passes through a UNet that denoising is made of.

Shapes: `B` clips or pictures of a pass, `C` latent channels, `F` frames, `H W` latent height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cdvideo.animate.text_states import TextKeyValues
from cdvideo.base.gpu_layers import joined_by_kernel
from cdvideo.base.recorded import Recordings
from cdvideo.base.shared_halves import computed_once, for_each_half


class UNetPasses:
    """A UNet's passes to `noise`, whose recordings serve one clip after another."""

    def __init__(self, unet: Any, recordings: Recordings) -> None:
        self.unet, self.recordings, self.device = unet, recordings, unet.device
        self.noise = recordings.of(noise_of, unet)
        self._sources: dict[str, Tensor] = {}

    def read(self, text: TextKeyValues) -> None:
        """Moves these keys and values to where those of before were, where recordings read them.

        Lets go of recordings where they do not fit there, and where the UNet's weights have moved.
        """
        self.recordings.follow(self.unet)
        if self.noise.is_recorded and _forms(self._sources) == _forms(text.sources):
            for name, value in self._sources.items():
                value.copy_(text.sources[name])
            text.sources = self._sources
        elif self.noise.is_recorded:
            self.recordings.forget()
        self._sources = text.sources

    def forget_where_memory_is_short(self) -> None:
        """What was recorded has memory of its own, which nothing else can use: it is kept while a quarter of the device's is free."""
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            if free < total / 4:
                self.recordings.forget()


def _forms(sources: dict[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    """What tensors have to have in common, so that the ones can be copied into the others."""
    return {name: (value.shape, value.dtype, value.is_inference()) for name, value in sources.items()}


def noise_of(unet: Any, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
    """The noise, in fp32, that a UNet sees in pictures (B, C, H, W), or a motion UNet in clips (B, C, F, H, W): a `NoisePredictor`'s."""
    # On a CPU a batch of another size is rounded otherwise, which guidance magnifies.
    times = len(states) // len(latents) if latents.device.type == "cuda" else 1
    latents = for_each_half(latents, len(states))
    with computed_once(unet, times), joined_by_kernel(latents.device):
        noise: Tensor = unet(latents.to(unet.dtype), timestep, encoder_hidden_states=states_by_row(latents, states)).sample
    return noise.float()


def states_by_row(latents: Tensor, states: Tensor) -> Tensor:
    """Text states as a UNet wants them for these latents: one for each frame of clips (B, C, F, H, W), frame after frame."""
    if latents.ndim == 4:
        return states
    return states.flatten(0, 1) if states.ndim == 4 else states.repeat_interleave(latents.shape[2], dim=0)
