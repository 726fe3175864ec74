"""Noise that depends on a seed and on nothing else."""

from __future__ import annotations

import torch
from torch import Tensor


def noise_generator(seed: int) -> torch.Generator:
    """What draws all noise of one clip: first that of `seeded_noise`, then what the sampler adds."""
    return torch.Generator("cpu").manual_seed(seed)


def seeded_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise in fp32 on the CPU: the same for a seed and shape on every device and in every process.

    A clip's shape is (1, C, F, H, W) and a picture's (1, C, H, W), in latent cells; a clip of one frame has a picture's noise.
    """
    return torch.randn(shape, generator=noise_generator(seed))
