"""The picture world as the diffusion model sees it: latents and text states, encoded once and kept, since drawing and encoding cost time.

Shapes: `B` clips, `F` frames, 4 channels, 16x16 latent cells, `L` text positions, `D` text width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from cdvideo.pocket.recipes.autoencoder import to_tensor
from cdvideo.pocket.recipes.device import mixed_precision, training_device
from cdvideo.pocket.world.painter import Painter
from cdvideo.pocket.world.scene import sample_scene
from cdvideo.pocket.world.wording import caption


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

    @property
    def num_frames(self) -> int:
        return self.mean.shape[1]

    def __len__(self) -> int:
        return len(self.mean)

    def to(self, device: torch.device) -> Latents:
        return Latents(**{name: value.to(device) for name, value in vars(self).items()})

    def drawn(self, picked: Tensor, generator: torch.Generator) -> Tensor:
        """Latents drawn from the posteriors of the picked items, (N, F, 4, 16, 16) fp32."""
        mean, std = self.mean[picked].float(), self.std[picked].float()
        return mean + std * torch.randn(mean.shape, generator=generator, device=generator.device)

    def said(self, picked: Tensor, generator: torch.Generator, drop: float) -> Tensor:
        """The picked items' text states, (N, L, D) fp32, a share `drop` of them replaced by the empty prompt's for guidance."""
        dropped = torch.rand(len(picked), generator=generator, device=generator.device) < drop
        return torch.where(dropped[:, None, None], self.empty, self.text[picked]).float()


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
    camera: str | None = None,
) -> Latents:
    """`count` scenes: pictures, or clips of `num_frames` frames. With a `camera`, all clips make that move and no caption names it."""
    device = training_device()
    autoencoder = autoencoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rng = np.random.default_rng(seed)
    means, stds, texts = [], [], []
    batch = max(1, 32 // num_frames)
    for start in tqdm(range(0, count, batch), desc="encoding the picture world", mininterval=10):
        scenes = [sample_scene(rng, moving=num_frames > 1) for _ in range(min(batch, count - start))]
        if camera:
            scenes = [replace(scene, camera=camera, motion=None) for scene in scenes]
        pictures = []
        for scene in scenes:
            pictures += painter.clip(scene, num_frames) if num_frames > 1 else [painter.frame(scene, float(rng.random()))]
        with mixed_precision(device):
            pixels = to_tensor(pictures).to(device).contiguous(memory_format=torch.channels_last)
            posterior = autoencoder.encode(pixels).latent_dist
        scale = autoencoder.config.scaling_factor
        means.append((posterior.mean * scale).half().cpu().unflatten(0, (-1, num_frames)))
        stds.append((posterior.std * scale).half().cpu().unflatten(0, (-1, num_frames)))
        captions = [caption(replace(scene, camera=None) if camera else scene, rng) for scene in scenes]
        texts.append(text_states(encoder, tokenizer, captions).half())
    empty = text_states(encoder, tokenizer, [""])[0].half()
    return Latents(torch.cat(means).contiguous(), torch.cat(stds).contiguous(), torch.cat(texts), empty)
