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
from cdvideo.pocket.recipes.optimisers import Optimisers
from cdvideo.pocket.recipes.processes import average_gradients, same_everywhere, save_from_first
from cdvideo.pocket.recipes.run import Average, Run, constant_then_decay

TEXT_DROP = 0.1
LEARNING_RATE = 1.2e-3


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


def train_worker(rank: int, processes: int, data: Path, folder: Path, seconds: float, batch_size: int = 64) -> None:
    torch.manual_seed(0)
    latents = Latents.load(data)
    model = build(latents.text.shape[-1])
    # On a CPU the fused attention's backward pass in bf16 takes three times as long as the plain one's.
    model.set_attn_processor(AttnProcessor())
    optimisers, average = Optimisers(model, rank, processes), Average(model, 0.999)
    run = Run.open(folder, model=model, optimisers=optimisers, average=average)
    parameters = list(model.parameters())
    noising = Noising()
    held_out, share = 1024, batch_size // processes
    losses: list[float] = []
    saved = run.elapsed
    while (elapsed := same_everywhere(run.elapsed)) < seconds:
        generator = torch.Generator().manual_seed(1_000_003 * run.step + rank)
        picked = torch.randint(held_out, len(latents), (share,), generator=generator)
        loss = noise_error(model, latents, picked, noising, generator)
        model.zero_grad()
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimisers.step(LEARNING_RATE * constant_then_decay(elapsed / seconds))
        average.update()
        run.step += 1
        losses.append(float(loss.detach()))
        if run.step % 100 == 0:
            if rank == 0:
                with average.applied():
                    validation = validate(model, latents, noising, held_out)
                run.log(samples=run.step * batch_size, loss=sum(losses) / len(losses), validation=validation)
            losses.clear()
        if elapsed > saved + 240:
            save_from_first(run, rank, model=model, optimisers=optimisers, average=average)
            saved = elapsed
    save_from_first(run, rank, model=model, optimisers=optimisers, average=average)


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


@torch.no_grad()
def validate(model: nn.Module, latents: Latents, noising: Noising, held_out: int, count: int = 256) -> float:
    generator = torch.Generator().manual_seed(99)
    errors = [noise_error(model, latents, torch.arange(at, at + 64), noising, generator) for at in range(0, min(count, held_out), 64)]
    return float(torch.stack(errors).mean())


def finished(folder: Path, text_width: int = 192) -> UNet2DConditionModel:
    """The averaged model."""
    model = build(text_width)
    average = Average(model, 0.999)
    Run.open(folder, average=average)
    average.put()
    return model.eval()
