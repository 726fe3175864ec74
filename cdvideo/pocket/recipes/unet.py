"""The UNet: noise prediction on the picture world's latents, from text states.

Processes of one thread each share the batch and average their gradients: on a CPU that is faster than one process with several threads.
Matrices and convolution kernels are stepped by Muon (Jordan 2024; torch's own), everything else by AdamW.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from cdvideo.pocket.recipes.diffusion import Noising
from cdvideo.pocket.recipes.latents import Latents
from cdvideo.pocket.recipes.processes import Shared
from cdvideo.pocket.recipes.run import Average, Run

TEXT_DROP = 0.1
DECAY = 0.999
HELD_OUT = 1024


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
    latents, noising = Latents.load(data), Noising()
    model = build(latents.text.shape[-1])
    # On a CPU the fused attention's backward pass in bf16 takes three times as long as the plain one's.
    model.set_attn_processor(AttnProcessor())

    def error(picked: Tensor, generator: torch.Generator) -> Tensor:
        return noise_error(model, latents, picked, noising, generator)

    @torch.no_grad()
    def validate() -> float:
        generator = torch.Generator().manual_seed(99)
        return float(torch.stack([error(part, generator) for part in torch.arange(256).split(64)]).mean())

    shared = Shared(
        rank=rank,
        processes=processes,
        folder=folder,
        seconds=seconds,
        batch_size=64,
        learning_rate=1.2e-3,
        average_decay=DECAY,
        log_every=100,
    )
    shared.train(model, error, range(HELD_OUT, len(latents)), validate)


def noise_error(model: nn.Module, latents: Latents, picked: Tensor, noising: Noising, generator: torch.Generator) -> Tensor:
    mean, std = latents.mean[picked].float(), latents.std[picked].float()
    clean = (mean + std * torch.randn(mean.shape, generator=generator))[:, 0]
    text = latents.text[picked].float()
    dropped = torch.rand(len(picked), generator=generator) < TEXT_DROP
    text[dropped] = latents.empty.float()
    noisy, noise, timesteps = noising(clean, generator)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(noisy, timesteps, text).sample
    return (predicted.float() - noise).pow(2).mean()


def finished(folder: Path, text_width: int = 192) -> UNet2DConditionModel:
    """The averaged model."""
    model = build(text_width)
    average = Average(model, DECAY)
    Run.open(folder, average=average)
    average.put()
    return model.eval()
