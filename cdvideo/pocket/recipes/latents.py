"""The picture world as the diffusion model sees it: latents and text states, encoded once and kept, since drawing and encoding cost time.

Shapes: `B` clips, `F` frames, 4 channels, 16x16 latent cells, `L` text positions, `D` text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from cdvideo.pocket.recipes.autoencoder import to_tensor
from cdvideo.pocket.world.scene import Painter, Scene, caption, sample_scene


@dataclass
class Latents:
    """`mean` and `std` of the posteriors, (B, F, 4, 16, 16) fp16, scaled; `text` states (B, L, D) fp16; `empty` (L, D)."""

    mean: Tensor
    std: Tensor
    text: Tensor
    empty: Tensor

    @classmethod
    def load(cls, path: Path) -> Latents:
        return cls(**torch.load(path, weights_only=True))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        torch.save(vars(self), temporary)
        temporary.replace(path)

    @classmethod
    def joined(cls, parts: list[Latents]) -> Latents:
        stacked = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "std", "text")}
        return cls(**stacked, empty=parts[0].empty)

    def __len__(self) -> int:
        return len(self.mean)


@torch.no_grad()
def text_states(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    length = tokenizer.model_max_length
    ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return encoder(ids).last_hidden_state


@torch.no_grad()
def encode_world(
    painter: Painter,
    autoencoder: AutoencoderKL,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    *,
    count: int,
    seed: int,
    num_frames: int = 1,
    moving: bool = False,
) -> Latents:
    """`count` scenes of `num_frames` frames. With `moving`, two scenes of three have a named motion."""
    autoencoder = autoencoder.to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    means, stds, texts = [], [], []
    batch = max(1, 32 // num_frames)
    for start in tqdm(range(0, count, batch), desc="encoding the picture world", mininterval=10):
        scenes = [_scene(rng, moving) for _ in range(min(batch, count - start))]
        pictures = []
        for scene in scenes:
            pictures += painter.clip(scene, num_frames) if num_frames > 1 else [painter.frame(scene, float(rng.random()))]
        with torch.autocast("cpu", torch.bfloat16):
            pixels = to_tensor(pictures).contiguous(memory_format=torch.channels_last)
            posterior = autoencoder.encode(pixels).latent_dist
        scale = autoencoder.config.scaling_factor
        means.append((posterior.mean * scale).half().unflatten(0, (-1, num_frames)))
        stds.append((posterior.std * scale).half().unflatten(0, (-1, num_frames)))
        texts.append(text_states(encoder, tokenizer, [caption(scene, rng) for scene in scenes]).half())
    empty = text_states(encoder, tokenizer, [""])[0].half()
    return Latents(torch.cat(means).contiguous(), torch.cat(stds).contiguous(), torch.cat(texts), empty)


def _scene(rng: np.random.Generator, moving: bool) -> Scene:
    scene = sample_scene(rng)
    while moving and scene.motion is None and rng.random() < 0.6:
        scene = sample_scene(rng)
    return scene
