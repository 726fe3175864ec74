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
from cdvideo.pocket.recipes.optimisers import Optimisers
from cdvideo.pocket.recipes.processes import average_gradients, same_everywhere, save_from_first
from cdvideo.pocket.recipes.run import Average, Run, constant_then_decay

LEARNING_RATE = 1.5e-3
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


def attached(base: UNet2DConditionModel, adapter: MotionAdapter) -> UNetMotionModel:
    """The motion UNet, sharing the base's and the adapter's parameters."""
    return attach(base, MotionModule.from_adapter(adapter, source="pocket"))


def train_worker(rank: int, processes: int, data: Path, unet_folder: Path, folder: Path, seconds: float, batch_size: int = 4) -> None:
    torch.manual_seed(0)
    latents = Latents.load(data)
    base = unet.finished(unet_folder).requires_grad_(False)
    adapter = build(base)
    model = attached(base, adapter).requires_grad_(False)
    model.set_attn_processor(AttnProcessor())
    trained = {name: value for name, value in model.named_parameters() if "motion_modules" in name}
    for value in trained.values():
        value.requires_grad_(True)
    optimisers, average = Optimisers(model, rank, processes), Average(model, 0.998)
    run = Run.open(folder, optimisers=optimisers, average=average, trained=_Parameters(trained))
    parameters = list(trained.values())
    noising = Noising()
    held_out, share = 32, batch_size // processes
    losses: list[float] = []
    saved = run.elapsed
    while (elapsed := same_everywhere(run.elapsed)) < seconds:
        generator = torch.Generator().manual_seed(2_000_003 * run.step + rank)
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
        if run.step % 50 == 0:
            if rank == 0:
                run.log(clips=run.step * batch_size, loss=sum(losses) / len(losses))
            losses.clear()
        if elapsed > saved + 180:
            save_from_first(run, rank, optimisers=optimisers, average=average, trained=_Parameters(trained))
            saved = elapsed
    save_from_first(run, rank, optimisers=optimisers, average=average, trained=_Parameters(trained))


class _Parameters:
    """Named parameters with a module's way of saving and loading."""

    def __init__(self, named: dict[str, nn.Parameter]) -> None:
        self.named = named

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.named.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.named.items():
            value.copy_(state[name])


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
    model = attached(base, adapter).requires_grad_(False)
    for name, value in model.named_parameters():
        value.requires_grad_("motion_modules" in name)
    average = Average(model, 0.998)
    Run.open(folder, average=average)
    average.put()
    return adapter.eval()
