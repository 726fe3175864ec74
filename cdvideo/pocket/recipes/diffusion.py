"""What the image and the motion training share: noise schedules, timesteps, and the weighted loss on the predicted noise.

Half of the samples follow Stable Diffusion's `scaled_linear` schedule and half AnimateDiff's `linear` one, so that the finished base is at
home under both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NUM_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


def cumulative_alphas() -> Tensor:
    """Products of 1 - beta, (2, 1000): row 0 scaled_linear, row 1 linear."""
    linear = torch.linspace(BETA_START, BETA_END, NUM_TIMESTEPS, dtype=torch.float64)
    scaled = torch.linspace(BETA_START**0.5, BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.stack([torch.cumprod(1 - betas, 0) for betas in (scaled, linear)]).float()


def where_shapes_are(gamma: float = 5.0, floor: float = 0.1, uniform: float = 0.1) -> Tensor:
    """How often a still's timesteps are drawn, (2, 1000).

    Min-SNR weighting (Hang et al. 2023, gamma 5) gives the nearly clean timesteps little weight. Instead of training on them and weighing
    their losses down, timesteps are drawn in proportion to that weight, plus a little of the uniform distribution. The noisiest, where
    only the place can be guessed and is learnt within minutes, are drawn less too: half as often where the signal's power is `floor` times
    the noise's. Shapes are decided in between.
    """
    alphas = cumulative_alphas()
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=gamma) / snr * snr / (snr + floor)
    return (1 - uniform) * weight / weight.sum(1, keepdim=True) + uniform / NUM_TIMESTEPS


def where_motion_is(highest_snr: float = 10.0) -> Tensor:
    """How often a clip's timesteps are drawn, (2, 1000): every signal-to-noise ratio below `highest_snr` as often on a logarithmic scale.

    Sixteen frames say together what one leaves open, so that which way a subject walks is decided where a still is all noise.
    """
    alphas = cumulative_alphas()
    logs = torch.log(alphas / (1 - alphas))
    steps = torch.diff(logs, dim=1, prepend=logs[:, :1]).neg() * (logs < math.log(highest_snr))
    return steps / steps.sum(1, keepdim=True)


def usual_clip_error(snr: Tensor) -> Tensor:
    """About the mean squared error of a trained model's predicted noise for a clip at a signal-to-noise ratio.

    Measured on held-out clips: 0.0008 at a ratio of 0.0016, 0.0045 at 0.023, 0.03 at 0.41. Errors divided by it weigh alike at every
    timestep; undivided, the noisiest, which decide the motion, would hardly count.
    """
    return 0.0525 * snr**0.65


class Noising:
    """Adds noise at timesteps drawn where they count: `density` (2, 1000) says how often each, for both schedules."""

    def __init__(self, device: torch.device, density: Tensor) -> None:
        self.alphas, self.density = cumulative_alphas().to(device), density.to(device)

    def __call__(self, latents: Tensor, generator: torch.Generator, schedule: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, the noise and the timesteps (B,) for `latents` (B, ...); `schedule` 0 or 1, both where not given."""
        size, device = len(latents), generator.device
        rows = torch.randint(2, (size,), generator=generator, device=device)
        if schedule is not None:
            rows = torch.full_like(rows, schedule)
        timesteps = torch.multinomial(self.density[rows], 1, generator=generator)[:, 0]
        noise = torch.randn(latents.shape, generator=generator, device=device)
        alphas = self.alphas[rows, timesteps].reshape(-1, *[1] * (latents.ndim - 1))
        return alphas.sqrt() * latents + (1 - alphas).sqrt() * noise, noise, timesteps

    def snr(self, timesteps: Tensor, schedule: int) -> Tensor:
        """Signal-to-noise ratios (B,) at timesteps of a schedule."""
        alphas = self.alphas[schedule, timesteps]
        return alphas / (1 - alphas)
