"""The denoise loop.

Shapes: `B` batch, `C` latent channels, `F` frames (clips only), `H W` latent height and width, `L` text tokens, `D` text width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NoisePredictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents, timestep, encoder_hidden_states) -> noise of the latents' shape."""


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
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoised latents of the shape of `latents`, (B, C, H, W) or (B, C, F, H, W), which are standard normal noise.

    `text` and `negative` are (B, L, D), or (B, F, L, D) where frames have their own. With a guidance scale of at most 1 the negative half
    is not computed. `generator` draws what the sampler adds, if it does. `on_step(done, total)` is called after each step.

    With `start`, latents of a picture or a clip, it is these that are denoised, with the noise of step `first_step` (SDEdit: Meng et al.
    2022, algorithm 1); earlier steps are left out.
    """
    guided = guidance_scale > 1
    timesteps = scheduler.timesteps[first_step:]
    if start is None:
        latents = latents * scheduler.init_noise_sigma
    else:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first_step)
        latents = scheduler.add_noise(start, latents, timesteps[:1])
    states = torch.cat([negative, text]) if guided else text
    total = len(timesteps)
    for index, timestep in enumerate(timesteps):
        doubled = torch.cat([latents, latents]) if guided else latents
        noise_pred = predict_noise(scheduler.scale_model_input(doubled, timestep), timestep, states)
        if guided:
            noise_uncond, noise_text = noise_pred.chunk(2)
            noise_pred = guided_noise(noise_uncond, noise_text, guidance_scale)
        latents = scheduler.step(noise_pred, timestep, latents, generator=generator).prev_sample
        if on_step:
            on_step(index + 1, total)
    return latents
