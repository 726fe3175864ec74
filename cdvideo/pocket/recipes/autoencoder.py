"""The autoencoder: 128 px to 16x16 latents of four channels, trained on the picture world.

It starts as nearly the identity (pictures pooled to the latents' size and enlarged again), which saves most of the training: residual
branches begin at zero, and red, green and blue travel through the shortcuts as pairs of opposite sign, so that `silu(x) - silu(-x) = x`
brings them through the last activation, beside constant pairs that keep the group normalisation from rescaling each picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from PIL import Image
from torch import Tensor, nn

from cdvideo.pocket.recipes.alone import train_alone
from cdvideo.pocket.recipes.device import mixed_precision, training_device
from cdvideo.pocket.recipes.pictures import grid
from cdvideo.pocket.recipes.run import Average, Run
from cdvideo.pocket.world.painter import Painter
from cdvideo.pocket.world.scene import Scene, sample_scene

SCALING_FACTOR = 0.18215
"""Stable Diffusion's own, so that code which forgets it fails on pocket too."""


def build() -> AutoencoderKL:
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 32, 96, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=128,
        scaling_factor=SCALING_FACTOR,
    )
    _start_as_identity(model)
    return model


CONSTANT = 2.0
DECAY = 0.998


@torch.no_grad()
def _start_as_identity(model: AutoencoderKL) -> None:
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                _carry(module.conv_shortcut)
        elif isinstance(module, Downsample2D):
            _carry(module.conv, pooled=True)
        elif isinstance(module, Upsample2D):
            _carry(module.conv)
    for first in (model.encoder.conv_in, model.decoder.conv_in):
        first.weight.mul_(0.3)
        first.bias.zero_()
        for colour in range(3):
            first.weight[4 * colour : 4 * colour + 4] = 0
            first.weight[4 * colour, colour, 1, 1] = 1
            first.weight[4 * colour + 1, colour, 1, 1] = -1
            first.bias[4 * colour + 2], first.bias[4 * colour + 3] = CONSTANT, -CONSTANT
    for last in (model.encoder.conv_out, model.decoder.conv_out):
        last.weight.mul_(0.3)
        last.bias.zero_()
        for colour in range(3):
            last.weight[colour] = 0
            last.weight[colour, 4 * colour, 1, 1] = 1
            last.weight[colour, 4 * colour + 1, 1, 1] = -1
    model.encoder.conv_out.bias[4:] = -5.0
    model.encoder.conv_out.weight[4:] *= 0.1
    for folded in (model.quant_conv, model.post_quant_conv):
        folded.weight.copy_(torch.eye(len(folded.weight))[:, :, None, None])
        folded.bias.zero_()


def _carry(conv: nn.Conv2d, pooled: bool = False) -> None:
    """Lets the first twelve channels pass unchanged, and leaves the others at a small random start."""
    assert conv.bias is not None
    conv.weight.mul_(0.3)
    conv.bias.zero_()
    for channel in range(12):
        conv.weight[channel] = 0
        if pooled:
            conv.weight[channel, channel, :2, :2] = 0.25
        else:
            conv.weight[channel, channel, conv.weight.shape[2] // 2, conv.weight.shape[3] // 2] = 1


@torch.no_grad()
def _match_gains(model: AutoencoderKL, pictures: Tensor) -> None:
    """Scales both last convolutions so that colours come out as bright as they went in."""
    pooled = F.avg_pool2d(pictures, 8)
    latents = model.encode(pictures).latent_dist.mode()[:, :3]
    model.encoder.conv_out.weight[:3] *= (pooled * latents).sum() / latents.pow(2).sum()
    decoded = model.decode(model.encode(pictures).latent_dist.mode()).sample
    model.decoder.conv_out.weight *= (pictures * decoded).sum() / decoded.pow(2).sum()


def to_tensor(pictures: list[Image.Image]) -> Tensor:
    """Pictures as (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1


def world_batch(painter: Painter, rng: np.random.Generator, size: int) -> tuple[Tensor, list[Scene]]:
    scenes = [sample_scene(rng) for _ in range(size)]
    return to_tensor([painter.frame(scene, float(rng.random())) for scene in scenes]), scenes


def psnr(first: Tensor, second: Tensor) -> float:
    """Decibels for values in [-1, 1], the mean over pictures."""
    error = (first - second).pow(2).mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


@torch.no_grad()
def held_out_psnr(model: AutoencoderKL, painter: Painter, count: int = 96) -> float:
    device = next(model.parameters()).device
    pictures = world_batch(painter, np.random.default_rng(10**9), count)[0].to(device)
    decoded = [model.decode(model.encode(part).latent_dist.mode()).sample.clamp(-1, 1) for part in pictures.split(16)]
    return psnr(pictures, torch.cat(decoded))


def train(painter: Painter, folder: Path, seconds: float, start: AutoencoderKL | None = None) -> None:
    """Trains both halves for `seconds` in all, from nothing or from `start`."""
    model = start or build()
    if start is None:
        _match_gains(model, world_batch(painter, np.random.default_rng(3), 32)[0])
    _train(model, painter, folder, seconds)


def train_decoder(painter: Painter, model: AutoencoderKL, folder: Path, seconds: float) -> None:
    """Goes on with the decoder of `model` alone, for `seconds` in all. Latents stay what they are."""
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    _train(model, painter, folder, seconds)


def _train(model: AutoencoderKL, painter: Painter, folder: Path, seconds: float) -> None:
    device = training_device()
    model.to(device)
    batch_size = 8 if device.type == "cpu" else 48

    def loss_at(step: int) -> Tensor:
        pictures = world_batch(painter, np.random.default_rng((7, step)), batch_size)[0].to(device)
        generator = torch.Generator(device).manual_seed(step)
        with mixed_precision(device):
            posterior = model.encode(pictures).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator, device=device)
            decoded = model.decode(posterior.mean + posterior.std * noise).sample.float()
        difference = decoded - pictures
        divergence = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return difference.abs().mean() + difference.pow(2).mean() + 1e-6 * divergence

    def evaluate(finally_: bool) -> dict[str, float]:
        return {"psnr_db": held_out_psnr(model, painter, 96 if finally_ else 32)}

    train_alone(model, folder, seconds, loss_at, evaluate, average_decay=DECAY, weight_decay=0.0)


@torch.no_grad()
def finished(painter: Painter, folder: Path) -> AutoencoderKL:
    """The averaged model of `train`, its latents' shift and scale folded into the quantising convolutions: zero mean, deviation 1 / scaling
    factor."""
    model = build()
    average = Average(model, DECAY)
    Run.open(folder, average=average)
    average.put()
    pictures, _ = world_batch(painter, np.random.default_rng(5), 512)
    latents = torch.cat([model.encode(part).latent_dist.mode() for part in pictures.split(32)])
    mean, gain = latents.mean(dim=(0, 2, 3)), 1 / (SCALING_FACTOR * latents.std(dim=(0, 2, 3)))
    quant, post = model.quant_conv, model.post_quant_conv
    post.bias.add_((post.weight[:, :, 0, 0] * mean).sum(1))
    post.weight.div_(gain[None, :, None, None])
    quant.weight[:4].mul_(gain[:, None, None, None])
    quant.bias[:4].sub_(mean).mul_(gain)
    # The log-variance head feeds the same latents, so its deviations are scaled as well.
    quant.bias[4:].add_(2 * torch.log(gain))
    return model.eval()


def with_decoder(model: AutoencoderKL, folder: Path) -> AutoencoderKL:
    """`model` with the decoder that `train_decoder` left in `folder`."""
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    average = Average(model, DECAY)
    Run.open(folder, average=average)
    average.put()
    return model


@torch.no_grad()
def show(model: AutoencoderKL, painter: Painter) -> Image.Image:
    """Held-out scenes, each above what the autoencoder makes of it."""
    pictures, _ = world_batch(painter, np.random.default_rng(10**9 + 7), 10)
    restored = model.decode(model.encode(pictures).latent_dist.mode()).sample
    both = ((torch.cat([pictures, restored]).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return grid([Image.fromarray(picture.numpy()) for picture in both], len(pictures))
