"""A camera move: a MotionLoRA on the finished motion module, trained on clips that all make that move, with everything else frozen.

Captions do not name the move, so that it comes from the MotionLoRA alone (Guo et al. 2023, section 4.3). Each layer's change starts at
nothing: its `up` is zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import MotionAdapter, StableDiffusionPipeline, UNetMotionModel
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cdvideo.motion import LoraInjection, MotionLora, MotionModule, attach
from cdvideo.motion.lora_layout import motion_changes, official_name
from cdvideo.pocket.recipes import motion, unet
from cdvideo.pocket.recipes.diffusion import Noising, where_motion_is
from cdvideo.pocket.recipes.latents import Latents
from cdvideo.pocket.recipes.processes import Shared
from cdvideo.pocket.recipes.run import CHECKPOINT

RANK = 8
DECAY = 0.99
HELD_OUT = 16

_ATTENTION = re.compile(r".+\.motion_modules\.\d+\..+\.attn\d\.(to_q|to_k|to_v|to_out\.0)")
_PARAMETER = re.compile(r"(?P<layer>.+)\.parametrizations\.weight\.0\.(?P<part>down|up)")


class LowRankChange(nn.Module):
    """A weight (O, I) with `up @ down` added to it: `up` (O, R) zeros at first, `down` (R, I) random."""

    def __init__(self, outputs: int, inputs: int, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def moving_parts(model: UNetMotionModel, rank: int = RANK) -> UNetMotionModel:
    """The frozen motion UNet with a change on each attention matrix of its motion modules; only the changes require gradients."""
    for name, layer in list(model.named_modules()):
        if _ATTENTION.fullmatch(name):
            parametrize.register_parametrization(layer, "weight", LowRankChange(layer.out_features, layer.in_features, rank))
    return model


def train_worker(rank: int, processes: int, data: Path, unet_folder: Path, motion_folder: Path, folder: Path, seconds: float) -> None:
    """One process's part in training one camera move on the encoded clips in `data`, for `seconds` in all."""
    torch.manual_seed(0)
    shared = Shared(
        rank=rank,
        processes=processes,
        folder=folder,
        seconds=seconds,
        batch_size=8,
        gpu_batch_size=32,
        learning_rate=2e-3,
        average_decay=DECAY,
        log_every=20,
    )
    latents, noising = Latents.load(data).to(shared.device), Noising(shared.device, where_motion_is())
    base, adapter = motion.finished(unet_folder, motion_folder)
    model = moving_parts(attach(base, MotionModule.from_adapter(adapter, source="pocket")))
    unet.plain_attention_on_cpu(model, shared.device)

    positions = motion.Positions(model)

    def error(picked: Tensor, generator: torch.Generator, step: int) -> Tensor:
        frames = positions.chosen(latents.num_frames, generator)
        return motion.noise_error(model, latents, picked, noising, generator, frames)

    shared.train(model, error, len(latents), HELD_OUT)


def finished(folder: Path) -> dict[str, Tensor]:
    """The averaged matrices in AnimateDiff's own layout."""
    averages = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)["average"]["values"]
    matches = {name: _PARAMETER.fullmatch(name) for name in averages}
    return {official_name(match["layer"], match["part"]): averages[name] for name, match in matches.items() if match}


def as_trained(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices of a finished move, in whichever layout, under the names that its training gives them: what `finished` undoes."""
    changes = motion_changes(dict(state), "a camera move")
    parts = {layer: {"down": change.down, "up": change.up} for layer, change in changes.items()}
    return {f"{layer}.parametrizations.weight.0.{part}": matrix for layer, pair in parts.items() for part, matrix in pair.items()}


def show(base: StableDiffusionPipeline, adapter: MotionAdapter, moves: Mapping[str, dict[str, Tensor]]) -> Image.Image:
    """One clip for each move, of the same scene from the same noise, eight of its frames in a row."""
    pipeline = motion.clip_pipeline(base, adapter)
    clips = []
    for move, state in moves.items():
        with LoraInjection(pipeline.unet, [(MotionLora.from_state(state, source=move), 1.0)]):
            clips.append(motion.eight_frames(pipeline, "a bear on the street", 0))
    return motion.strips(clips, list(moves))
