"""The denoise loop.

Shapes: `B` batch, `C` latent channels, `F` frames (clips only), `H W` latent height and width, `L` text tokens, `D` text width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NoisePredictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents, timestep, encoder_hidden_states) -> noise, for each row of states one of that of the latents' shape.

Of states there may be twice as many rows as of latents, which then are those of both halves.
"""

OnStep = Callable[[int, int], None]
"""(done, total), when each step has ended; on a GPU not before the next one lies ready for it."""

OnPrediction = Callable[[int, int, Tensor], None]
"""(done, total, latents), after each step: the finished latents as the step predicts them."""


def guided_noise(noise_uncond: Tensor, noise_text: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, equation 6, in the form e_u + s (e_t - e_u))."""
    return noise_uncond + guidance_scale * (noise_text - noise_uncond)


@torch.no_grad()
def denoise(
    predict_noise: NoisePredictor,
    scheduler: Any,
    latents: Tensor,
    *,
    text: Tensor,
    negative: Tensor,
    guidance_scale: float,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    first_step: int = 0,
    guided_share: float = 1.0,
    on_step: OnStep | None = None,
    on_prediction: OnPrediction | None = None,
) -> Tensor:
    """Denoised latents of the shape of `latents`, (B, C, H, W) or (B, C, F, H, W), which are standard normal noise.

    `text` and `negative` are (B, L, D), or (B, F, L, D) where frames have their own. With a guidance scale of at most 1 the negative half
    is not computed, and behind the first `guided_share` of the steps not either. `generator` draws what the sampler adds, if it does.

    With `start`, latents of a picture or a clip, it is these that are denoised, with the noise of step `first_step` (SDEdit: Meng et al.
    2022, algorithm 1); earlier steps are left out.
    """
    timesteps = scheduler.timesteps[first_step:]
    # The scheduler reads them on the CPU, so that nothing there waits for a GPU.
    on_device = timesteps.to(latents.device)
    if start is None:
        latents = latents * scheduler.init_noise_sigma
    else:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first_step)
        latents = scheduler.add_noise(start, latents, timesteps[:1])
    both = torch.cat([negative, text])
    total = len(timesteps)
    num_guided = round(guided_share * total) if guidance_scale > 1 else 0
    telling = _Telling(on_step, total, latents.device)
    for index, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        if index < num_guided:
            noise_uncond, noise_text = predict_noise(scaled, on_device[index], both).chunk(2)
            noise_pred = guided_noise(noise_uncond, noise_text, guidance_scale)
        else:
            noise_pred = predict_noise(scaled, on_device[index], text)
        latents = scheduler.step(noise_pred, timestep, latents, generator=generator).prev_sample
        telling.given(index + 1)
        if on_prediction:
            on_prediction(index + 1, total, predicted_original(scheduler, scaled, timestep, noise_pred))
    telling.all_given()
    return latents


class _Telling:
    """Calls `on_step` when steps have ended. A GPU is waited for, but not before the next step lies ready for it."""

    def __init__(self, on_step: OnStep | None, total: int, device: torch.device) -> None:
        self.on_step, self.total, self.device = on_step, total, device
        self._end: torch.cuda.Event | None = None

    def given(self, step: int) -> None:
        """The device has been given the work of that step, counted from 1."""
        if self.device.type != "cuda":
            self._tell(step)
        else:
            before, self._end = self._end, torch.cuda.Event()
            self._end.record(torch.cuda.current_stream(self.device))
            if before:
                before.synchronize()
                self._tell(step - 1)

    def all_given(self) -> None:
        if self._end:
            self._end.synchronize()
            self._tell(self.total)

    def _tell(self, step: int) -> None:
        if self.on_step:
            self.on_step(step, self.total)


def predicted_original(scheduler: Any, scaled: Tensor, timestep: Tensor, noise_pred: Tensor) -> Tensor:
    """The latents without their noise: (x_t - sqrt(1 - a_t) e) / sqrt(a_t), of x_t as the model takes it (DDIM: Song et al. 2020)."""
    alpha = scheduler.alphas_cumprod.to(scaled.device)[timestep.long()].to(scaled.dtype)
    return (scaled - (1 - alpha).sqrt() * noise_pred) / alpha.sqrt()
