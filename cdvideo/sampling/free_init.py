"""FreeInit (Wu et al. 2023): noise that agrees with a clip's slow and coarse content, so that its frames agree with each other.

Shapes: `B` batch, `C` latent channels, `F` frames, `H W` latent height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ORDER = 4
SPATIAL_STOP = TEMPORAL_STOP = 0.25
_AXES = (-3, -2, -1)


def low_pass(
    shape: tuple[int, ...], *, order: int = ORDER, spatial_stop: float = SPATIAL_STOP, temporal_stop: float = TEMPORAL_STOP
) -> Tensor:
    """The Butterworth filter of frequencies of (F, H, W), the zero frequency in the middle: 1 / (1 + (d / d_s)^(2 order)).

    d is the distance from the middle in units of half the sampling rate, the temporal axis stretched by d_s / d_t.
    """
    axes = [torch.arange(length, dtype=torch.float64) * 2 / length - 1 for length in shape]
    frames, rows, columns = torch.meshgrid(*axes, indexing="ij")
    distance = (frames * spatial_stop / temporal_stop) ** 2 + rows**2 + columns**2
    return (1 / (1 + (distance / spatial_stop**2) ** order)).float()


def mixed_frequencies(low: Tensor, high: Tensor, low_pass_filter: Tensor) -> Tensor:
    """(B, C, F, H, W): the low frequencies of one and the high ones of the other."""
    spectra = [torch.fft.fftshift(torch.fft.fftn(value.float(), dim=_AXES), dim=_AXES) for value in (low, high)]
    weights = low_pass_filter.to(low.device)
    mixed = spectra[0] * weights + spectra[1] * (1 - weights)
    return torch.fft.ifftn(torch.fft.ifftshift(mixed, dim=_AXES), dim=_AXES).real


def reinitialized_noise(scheduler: Any, denoised: Tensor, initial_noise: Tensor, fresh_noise: Tensor) -> Tensor:
    """The noise of the next round, (B, C, F, H, W), from what this round made of `initial_noise`.

    The denoised latents are noised again to the last timestep with the initial noise; of that the low frequencies stay, and the fresh
    noise gives the high ones: FreeInit's noise reinitialization.
    """
    last = torch.full((len(denoised),), scheduler.config.num_train_timesteps - 1, device=denoised.device)
    alpha = scheduler.alphas_cumprod.to(denoised.device)[last].view(-1, 1, 1, 1, 1).float()
    diffused = alpha.sqrt() * denoised.float() + (1 - alpha).sqrt() * initial_noise.float()
    return mixed_frequencies(diffused, fresh_noise, low_pass(tuple(denoised.shape[-3:]))).to(denoised.dtype)
