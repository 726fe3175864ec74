"""The motion module: an AnimateDiff V2 MotionAdapter for the pocket UNet, trained on clips with the UNet frozen.

Its output projections start at zero, so that training starts from the still model (Guo et al. 2023, section 4.2). Clips follow
AnimateDiff's linear schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel, UNetMotionModel
from PIL import Image
from torch import Tensor, nn

from cdvideo.motion import MotionModule, attach
from cdvideo.pocket.recipes import unet
from cdvideo.pocket.recipes.diffusion import Noising
from cdvideo.pocket.recipes.latents import Latents
from cdvideo.pocket.recipes.pictures import grid
from cdvideo.pocket.recipes.processes import Shared
from cdvideo.pocket.recipes.run import Average, Run
from cdvideo.pocket.world.moves import CAMERAS, MOTIONS
from cdvideo.sampling.schedules import make_scheduler

DECAY = 0.998
HELD_OUT = 32
LINEAR = 1
FLOOR = 0.1 / 16
"""Sixteen frames say together what one leaves open, so that where a subject walks is decided at sixteen times a still's noise."""
SHOWN = (("bear", "on the beach"), ("car", "on the street"), ("penguin", "in the snow"), ("cat", "on a pink background"))


def build(base: UNet2DConditionModel) -> MotionAdapter:
    adapter = MotionAdapter(
        block_out_channels=tuple(base.config.block_out_channels),
        motion_layers_per_block=base.config.layers_per_block,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=base.config.norm_num_groups,
        motion_max_seq_length=32,
        use_motion_mid_block=True,
    )
    for name, module in adapter.named_modules():
        if name.endswith("proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return adapter


def moving_parts(base: UNet2DConditionModel, adapter: MotionAdapter) -> UNetMotionModel:
    """The motion UNet, sharing the base's and the adapter's memory; only the adapter's parameters require gradients."""
    model = attach(base, MotionModule.from_adapter(adapter, source="pocket"))
    for name, value in model.named_parameters():
        value.requires_grad_(".motion_modules." in name)
    return model


def train_worker(rank: int, processes: int, data: Path, unet_folder: Path, folder: Path, seconds: float) -> None:
    """One process's part in training the motion module on the encoded clips in `data`, for `seconds` in all."""
    torch.manual_seed(0)
    shared = Shared(
        rank=rank,
        processes=processes,
        folder=folder,
        seconds=seconds,
        batch_size=4,
        gpu_batch_size=16,
        learning_rate=1.5e-3,
        average_decay=DECAY,
        log_every=50,
    )
    latents, noising = Latents.load(data).to(shared.device), Noising(shared.device, floor=FLOOR)
    base = unet.finished(unet_folder)
    model = moving_parts(base, build(base))
    unet.plain_attention_on_cpu(model, shared.device)

    def error(picked: Tensor, generator: torch.Generator) -> Tensor:
        return noise_error(model, latents, picked, noising, generator)

    shared.train(model, error, len(latents), HELD_OUT)


def noise_error(model: nn.Module, latents: Latents, picked: Tensor, noising: Noising, generator: torch.Generator) -> Tensor:
    clean = latents.drawn(picked, generator).transpose(1, 2)
    text = latents.said(picked, generator, unet.TEXT_DROP)
    noisy, noise, timesteps = noising(clean, generator, LINEAR)
    with torch.autocast(generator.device.type, torch.bfloat16):
        predicted = model(noisy, timesteps, text.repeat_interleave(clean.shape[2], dim=0)).sample
    return (predicted.float() - noise).pow(2).mean()


def finished(unet_folder: Path, folder: Path) -> MotionAdapter:
    """The averaged motion module."""
    base = unet.finished(unet_folder)
    adapter = build(base)
    average = Average(moving_parts(base, adapter), DECAY)
    Run.open(folder, average=average)
    average.put()
    return adapter.eval()


def show(base: StableDiffusionPipeline, adapter: MotionAdapter) -> Image.Image:
    """One clip for each named motion and camera move, eight of its frames in a row."""
    pipeline = clip_pipeline(base, adapter)
    phrases = [words[0] for words in (*MOTIONS.values(), *CAMERAS.values())]
    prompts = [f"a {subject} {words} {place}" for words, (subject, place) in zip(phrases, cycle(SHOWN), strict=False)]
    return strips([eight_frames(pipeline, prompt, seed) for seed, prompt in enumerate(prompts)], prompts)


def clip_pipeline(base: StableDiffusionPipeline, adapter: MotionAdapter) -> AnimateDiffPipeline:
    parts = {name: getattr(base, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    pipeline = AnimateDiffPipeline(**parts, motion_adapter=adapter, scheduler=make_scheduler("animatediff", 25))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def eight_frames(pipeline: AnimateDiffPipeline, prompt: str, seed: int) -> list[Image.Image]:
    """Every other frame of a clip of 16, 25 steps, guidance 7.5."""
    generator = torch.Generator().manual_seed(seed)
    return list(pipeline(prompt, num_frames=16, num_inference_steps=25, guidance_scale=7.5, generator=generator).frames[0][::2])


def strips(clips: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """A row of eight frames for each clip, its title below the first."""
    captions = [title if index == 0 else "" for title in titles for index in range(8)]
    return grid([frame for frames in clips for frame in frames], 8, captions)
