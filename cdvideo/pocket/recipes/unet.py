"""The UNet: noise prediction on the picture world's latents, from text states.

Processes of one thread each share the batch and average their gradients: on a CPU that is faster than one process with several threads.
Matrices and convolution kernels are stepped by Muon (Jordan 2024; torch's own), everything else by AdamW.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor, nn

from cdvideo.pocket.recipes.device import mixed_precision
from cdvideo.pocket.recipes.diffusion import Noising, where_shapes_are
from cdvideo.pocket.recipes.latents import Latents
from cdvideo.pocket.recipes.pictures import grid
from cdvideo.pocket.recipes.processes import Shared
from cdvideo.pocket.recipes.run import Average, Run
from cdvideo.pocket.world.scene import sample_scene
from cdvideo.pocket.world.wording import caption

TEXT_DROP = 0.1
DECAY = 0.999
HELD_OUT = 256


def build(text_width: int = 192) -> UNet2DConditionModel:
    model = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 192),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=text_width,
        norm_num_groups=16,
    )
    nn.init.zeros_(model.conv_out.weight)
    nn.init.zeros_(model.conv_out.bias)
    return model


def train_worker(rank: int, processes: int, data: Path, folder: Path, seconds: float) -> None:
    """One process's part in training the UNet on the encoded stills in `data`, for `seconds` in all."""
    torch.manual_seed(0)
    shared = Shared(
        rank=rank,
        processes=processes,
        folder=folder,
        seconds=seconds,
        batch_size=64,
        gpu_batch_size=256,
        learning_rate=1.2e-3,
        average_decay=DECAY,
        log_every=100,
    )
    latents, noising = Latents.load(data).to(shared.device), Noising(shared.device, where_shapes_are())
    model = build(latents.text.shape[-1])
    plain_attention_on_cpu(model, shared.device)

    def error(picked: Tensor, generator: torch.Generator, step: int) -> Tensor:
        return noise_error(model, latents, picked, noising, generator)

    shared.train(model, error, len(latents), HELD_OUT)


def plain_attention_on_cpu(model: UNet2DConditionModel | UNetMotionModel, device: torch.device) -> None:
    """On a CPU the fused attention's backward pass in bf16 takes three times as long as the plain one's."""
    if device.type == "cpu":
        model.set_attn_processor(AttnProcessor())


def noise_error(model: nn.Module, latents: Latents, picked: Tensor, noising: Noising, generator: torch.Generator) -> Tensor:
    clean = latents.drawn(picked, generator)[:, 0]
    text = latents.said(picked, generator, TEXT_DROP)
    noisy, noise, timesteps = noising(clean, generator)
    with mixed_precision(generator.device):
        predicted = model(noisy, timesteps, text).sample
    return (predicted.float() - noise).pow(2).mean()


def finished(folder: Path, text_width: int = 192) -> UNet2DConditionModel:
    """The averaged model."""
    model = build(text_width)
    average = Average(model, DECAY)
    Run.open(folder, average=average)
    average.put()
    return model.eval()


def show(pipeline: StableDiffusionPipeline) -> Image.Image:
    """What the model draws for captions of held-out scenes, 25 steps, guidance 7.5."""
    rng = np.random.default_rng(10**9 + 11)
    captions = [caption(sample_scene(rng), rng, complete=True) for _ in range(40)]
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    pictures: list[Image.Image] = []
    for start in range(0, len(captions), 8):
        pictures += pipeline(captions[start : start + 8], num_inference_steps=25, guidance_scale=7.5, generator=generator).images
    return grid(pictures, 8, captions)
