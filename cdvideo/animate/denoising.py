"""From a prompt's settings to denoised latents: the text's keys and values, the noise, and the loop over them.

Shapes: `C` latent channels, `F` frames, `H W` latent height and width, `R` prompts, `N` concepts, `S` sources of keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cdvideo.animate.key_frames import key_frame_weights, values_by_frame
from cdvideo.animate.passes import UNetPasses
from cdvideo.animate.reuse import EXACT, Speed, at_some_steps
from cdvideo.animate.sparing import SparingPredictor
from cdvideo.animate.starting import Start
from cdvideo.animate.text_states import TextKeyValues
from cdvideo.base import Base
from cdvideo.base.quick_layers import quick_layers
from cdvideo.motion.quick_motion import quick_motion
from cdvideo.sampling import (
    OnPrediction,
    OnStep,
    denoise,
    long_noise,
    make_scheduler,
    noise_generator,
    reinitialized_noise,
    window_frames,
    windowed,
)


def denoised(
    base: Base,
    passes: UNetPasses,
    settings: Mapping[str, Any],
    *,
    text: Tensor,
    negative: Tensor,
    window: int,
    num_frames: int | None = None,
    loop: bool = False,
    turns: bool = True,
    start: Start | None = None,
    rounds: int = 1,
    speed: Speed = EXACT,
    on_step: OnStep | None = None,
    on_prediction: OnPrediction | None = None,
) -> Tensor:
    """Denoised latents (1, C, F, H, W) in fp32 of a clip of `num_frames`, or (1, C, H, W) of a still where that is None.

    Between the steps all is fp32, whatever the base computes in: hundreds of small steps in fewer bits add up to noise of their own.
    `settings` are those of `sampling_settings`; `turns` is as for `window_frames`. Each round after the first starts from the noise that
    FreeInit makes of the one before.
    """
    unet = passes.unet
    width, height = (side // base.latent_factor for side in settings["size"])
    shape = (1, unet.config.in_channels, *(() if num_frames is None else (num_frames,)), height, width)
    generator = noise_generator(settings["seed"])

    def draw() -> Tensor:
        return initial_noise(shape, window, generator, loop=loop, turns=turns).to(base.device)

    latents = noise = first = draw()
    clean = start.latents(base).float().reshape(shape) if start else None
    first_step = start.first_step(settings["steps"]) if start else 0
    num_steps = settings["steps"] - first_step
    with quick_layers(unet), quick_motion(unet), SparingPredictor(base, passes) as plain:
        predict = plain if num_frames is None else windowed(plain, window=window, loop=loop, turns=turns)
        for number in range(rounds):
            scheduler = make_scheduler(settings["schedule"], settings["steps"], settings["sampler"])
            if number:
                noise = reinitialized_noise(scheduler, latents, first, draw())
            latents = denoise(
                at_some_steps(predict, speed, num_steps, sampler=settings["sampler"]),
                scheduler,
                noise,
                text=text,
                negative=negative,
                guidance_scale=settings["guidance"],
                generator=generator,
                start=clean,
                first_step=first_step,
                guided_share=speed.guided_share,
                on_step=_in_round(on_step, number, rounds),
                on_prediction=on_prediction if number == rounds - 1 else None,
            )
    return latents


def _in_round(on_step: OnStep | None, number: int, rounds: int) -> OnStep | None:
    if on_step is None:
        return None
    return lambda done, total: on_step(number * total + done, rounds * total)


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


def initial_noise(shape: tuple[int, ...], window: int, generator: torch.Generator, **windows: Any) -> Tensor:
    """Standard normal noise; of a long clip's frames, only the first window's are drawn. `windows` is what else `window_frames` takes."""
    if len(shape) == 4 or shape[2] <= window:
        return torch.randn(shape, generator=generator)
    seen = window_frames(shape[2], window=window, **windows)
    first = torch.randn((*shape[:2], len(seen[0]), *shape[3:]), generator=generator)
    return long_noise(first, seen, generator)
