"""From a prompt's settings to denoised latents: the text's keys and values, the noise, and the loop over them.

Shapes: `C` latent channels, `F` frames, `H W` latent height and width, `R` prompts, `N` concepts, `S` sources of keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cdvideo.animate.key_frames import key_frame_weights, values_by_frame
from cdvideo.animate.text_states import TextKeyValues
from cdvideo.sampling import NoisePredictor, long_noise

OnStep = Callable[[int, int], None]


def noise_predictor(unet: Any) -> NoisePredictor:
    """The noise that a UNet sees in pictures (B, C, H, W), or a motion UNet in clips (B, C, F, H, W)."""

    def predict_noise(latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        if latents.ndim == 5:
            states = states.flatten(0, 1) if states.ndim == 4 else states.repeat_interleave(latents.shape[2], dim=0)
        return unet(latents, timestep, encoder_hidden_states=states).sample

    return predict_noise


def mixed_text(
    text: TextKeyValues,
    own_strengths: Sequence[float],
    *,
    prompts: Mapping[int, str],
    travel: str = "linear",
    strengths: Sequence[Mapping[int, float]] = (),
    num_frames: int = 1,
    loop: bool = False,
) -> tuple[Tensor, Tensor]:
    """What the UNet takes for the text states of `prompts` by key frame, and of the negative prompt, which is the first of `text`.

    `own_strengths` are the concepts', `strengths` factors of them by key frame.
    Each is (1, 1, S) where all frames have the same, else (1, F, 1, S).
    """
    changing = len(prompts) > 1 or bool(strengths)
    length = num_frames if changing else 1
    positive, negative = torch.zeros(length, text.num_prompts), torch.zeros(length, text.num_prompts)
    positive[:, 1:] = key_frame_weights(list(prompts), num_frames, curve=travel, loop=loop)[:length]
    negative[:, 0] = 1
    own = torch.tensor(own_strengths[: text.num_concepts]).expand(length, -1)
    if strengths:
        own = own * torch.stack([values_by_frame(course, num_frames, loop=loop) for course in strengths], dim=1)
    mixed = text.mixed(positive, own), text.mixed(negative, own)
    return (mixed[0][None], mixed[1][None]) if changing else mixed


def initial_noise(shape: tuple[int, ...], window: int, generator: torch.Generator) -> Tensor:
    """Standard normal noise; of a long clip's frames, only the first window's are drawn."""
    if len(shape) == 4 or shape[2] <= window:
        return torch.randn(shape, generator=generator)
    first = torch.randn((*shape[:2], window, *shape[3:]), generator=generator)
    return long_noise(first, shape[2], generator)
