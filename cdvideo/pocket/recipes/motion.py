"""The motion module: an AnimateDiff V2 MotionAdapter for the pocket UNet, trained on clips.

Its output projections start at zero, so that training starts from the still model (Guo et al. 2023, section 4.2). Clips follow
AnimateDiff's linear schedule. The UNet is frozen but for its cross-attention's keys and values: to stills "walking left" and "walking
right" look alike, so that these would otherwise tell the motion module nothing of the direction. Stills are learnt beside the clips, so
that the UNet stays as good at them as it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel, UNetMotionModel
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from PIL import Image
from torch import Tensor, nn

from cdvideo.motion import MotionModule, attach
from cdvideo.pocket.recipes import unet
from cdvideo.pocket.recipes.device import mixed_precision
from cdvideo.pocket.recipes.diffusion import Noising, usual_clip_error, where_motion_is, where_shapes_are
from cdvideo.pocket.recipes.latents import Latents
from cdvideo.pocket.recipes.pictures import grid
from cdvideo.pocket.recipes.processes import Shared
from cdvideo.pocket.recipes.run import Average, Run
from cdvideo.pocket.world.moves import CAMERAS, MOTIONS
from cdvideo.sampling.schedules import make_scheduler

DECAY = 0.998
HELD_OUT = 32
LINEAR = 1
FRAMES_A_STEP = 8
"""A step sees half of a clip's frames, each at its own position: twice as many clips in the same time. On a GPU every other sees all."""
STILLS_FOR_A_CLIP = 2
STILLS_WEIGHT = 4.0
"""A still's error is about a sixteenth of a clip's divided one."""
SHOWN = (("bear", "on the beach"), ("car", "on the street"), ("penguin", "in the snow"), ("cat", "on a pink background"))

_KEYS_AND_VALUES = re.compile(r"(down_blocks|mid_block|up_blocks)\.(?:(?!motion_modules).)+\.attn2\.to_[kv]\.weight")


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
    """The motion UNet, sharing the base's and the adapter's memory.

    Only the adapter's parameters and the cross-attention's keys and values require gradients; the latter are the base's own, too.
    """
    model = attach(base, MotionModule.from_adapter(adapter, source="pocket"))
    base.requires_grad_(False)
    for name, value in model.named_parameters():
        value.requires_grad_(".motion_modules." in name or _KEYS_AND_VALUES.fullmatch(name) is not None)
        if _KEYS_AND_VALUES.fullmatch(name):
            base.get_submodule(name.removesuffix(".weight")).weight = value
    return model


class Positions:
    """Shows a motion UNet some frames of a clip, each at its own position."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [layer for layer in model.modules() if isinstance(layer, SinusoidalPositionalEmbedding)]
        self.tables = [layer.pe.clone() for layer in self.layers]

    def chosen(self, num_frames: int, generator: torch.Generator, count: int = FRAMES_A_STEP) -> Tensor:
        """`count` frames, (F,) in their order, which the model takes its next input for."""
        frames = torch.randperm(num_frames, generator=generator, device=generator.device)[:count].sort().values
        for layer, table in zip(self.layers, self.tables, strict=True):
            layer.pe = table[:, frames.to(table.device)].to(layer.pe.device)
        return frames


def train_worker(rank: int, processes: int, clips: Path, stills: Path, unet_folder: Path, folder: Path, seconds: float) -> None:
    """One process's part in training the motion module on the encoded `clips` and `stills`, for `seconds` in all."""
    torch.manual_seed(0)
    shared = Shared(
        rank=rank,
        processes=processes,
        folder=folder,
        seconds=seconds,
        batch_size=8,
        gpu_batch_size=128,
        learning_rate=1.5e-3,
        average_decay=DECAY,
        log_every=50,
    )
    device = shared.device
    moving, still = Latents.load(clips).to(device), Latents.load(stills).to(device)
    clip_noise, still_noise = Noising(device, where_motion_is()), Noising(device, where_shapes_are())
    base = unet.finished(unet_folder).to(device)
    model = moving_parts(base, build(base))
    for part in (base, model):
        unet.plain_attention_on_cpu(part, device)
    positions = Positions(model)

    def error(picked: Tensor, generator: torch.Generator, step: int) -> Tensor:
        sees_all = device.type != "cpu" and step % 2
        frames = positions.chosen(moving.num_frames, generator, moving.num_frames if sees_all else FRAMES_A_STEP)
        of_clips = noise_error(model, moving, picked, clip_noise, generator, frames)
        others = torch.randint(unet.HELD_OUT, len(still), (STILLS_FOR_A_CLIP * len(picked),), generator=generator, device=device)
        return of_clips + STILLS_WEIGHT * unet.noise_error(base, still, others, still_noise, generator)

    shared.train(model, error, len(moving), HELD_OUT)


def noise_error(
    model: nn.Module, latents: Latents, picked: Tensor, noising: Noising, generator: torch.Generator, frames: Tensor | None = None
) -> Tensor:
    """The error of the noise predicted for the picked clips (all of their frames, or `frames`) in units of the usual one."""
    clean = latents.drawn(picked, generator).transpose(1, 2)
    clean = clean if frames is None else clean[:, :, frames]
    text = latents.said(picked, generator, unet.TEXT_DROP)
    noisy, noise, timesteps = noising(clean, generator, LINEAR)
    with mixed_precision(generator.device):
        predicted = model(noisy, timesteps, text.repeat_interleave(clean.shape[2], dim=0)).sample
    return ((predicted.float() - noise).pow(2).mean((1, 2, 3, 4)) / usual_clip_error(noising.snr(timesteps, LINEAR))).mean()


def finished(unet_folder: Path, folder: Path) -> tuple[UNet2DConditionModel, MotionAdapter]:
    """The base with the keys and values that clips taught it, and the averaged motion module."""
    base = unet.finished(unet_folder)
    adapter = build(base)
    average = Average(moving_parts(base, adapter), DECAY)
    Run.open(folder, average=average)
    average.put()
    return base.eval().requires_grad_(False), adapter.eval()


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
