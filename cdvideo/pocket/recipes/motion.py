"""The motion module: an AnimateDiff V2 MotionAdapter for the pocket UNet, trained on clips with the UNet frozen.

Its output projections start at zero, so that training starts from the still model (Guo et al. 2023, section 4.2). Clips follow
AnimateDiff's linear schedule.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from cdvideo.motion import MotionModule, attach
from cdvideo.pocket.recipes import unet
from cdvideo.pocket.recipes.diffusion import Noising
from cdvideo.pocket.recipes.latents import Latents
from cdvideo.pocket.recipes.processes import Shared
from cdvideo.pocket.recipes.run import Average, Run

DECAY = 0.998
HELD_OUT = 32
LINEAR = 1


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
    latents, noising = Latents.load(data), Noising()
    base = unet.finished(unet_folder)
    model = moving_parts(base, build(base))
    model.set_attn_processor(AttnProcessor())

    def error(picked: Tensor, generator: torch.Generator) -> Tensor:
        return noise_error(model, latents, picked, noising, generator)

    @torch.no_grad()
    def validate() -> float:
        generator = torch.Generator().manual_seed(99)
        return float(torch.stack([error(part, generator) for part in torch.arange(HELD_OUT).split(4)]).mean())

    shared = Shared(
        rank=rank,
        processes=processes,
        folder=folder,
        seconds=seconds,
        batch_size=4,
        learning_rate=1.5e-3,
        average_decay=DECAY,
        log_every=50,
    )
    shared.train(model, error, range(HELD_OUT, len(latents)), validate)


def noise_error(model: nn.Module, latents: Latents, picked: Tensor, noising: Noising, generator: torch.Generator) -> Tensor:
    clean = latents.mean[picked].float().transpose(1, 2)
    noisy, noise, timesteps = noising(clean, generator, LINEAR)
    text = latents.text[picked].float()
    dropped = torch.rand(len(picked), generator=generator) < unet.TEXT_DROP
    text[dropped] = latents.empty.float()
    with torch.autocast("cpu", torch.bfloat16):
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
