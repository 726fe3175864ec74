"""CLIP as a measure (Radford et al. 2021): of a picture and a text, and of a picture and photos.

Shapes: `N` pictures or texts, `P` photos, `D` the width that texts and pictures share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Frames = NDArray[np.uint8]
POCKET_WEIGHTS = Path(__file__).parents[1] / "pocket" / "weights"


class Clip:
    """Normalised image and text features (N, D) of pocket's CLIP."""

    def __init__(self, folder: Path = POCKET_WEIGHTS / "clip") -> None:
        from transformers import CLIPModel, CLIPTokenizer

        self.model: Any = CLIPModel.from_pretrained(folder).float().eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(POCKET_WEIGHTS / "tokenizer")

    @torch.no_grad()
    def images(self, frames: Frames) -> Tensor:
        """Of pictures (N, H, W, 3) uint8."""
        side = self.model.config.vision_config.image_size
        small = [np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BOX)) for frame in frames]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1
        features = [self.model.visual_projection(self.model.vision_model(pixel_values=part).pooler_output) for part in pixels.split(64)]
        return F.normalize(torch.cat(features), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        features = self.model.text_projection(self.model.text_model(input_ids=tokens.input_ids).pooler_output)
        return F.normalize(features, dim=-1)

    def alignment(self, frames: Frames, texts: Sequence[str]) -> float:
        """CLIP-T: the mean cosine of each picture (N, H, W, 3) with its own text."""
        return float((self.images(frames) * self.texts(texts)).sum(-1).mean())

    def likeness(self, frames: Frames, photos: Frames) -> float:
        """CLIP-I: the mean cosine of pictures (N, H, W, 3) with photos (P, H, W, 3), over all pairs."""
        return float((self.images(frames) @ self.images(photos).T).mean())


def clip_of(kind: str) -> Clip | None:
    """The CLIP that comes with a kind of base (a preset's `kind`); None where none does."""
    folder = clip_folder(kind)
    return Clip(folder) if folder else None


def clip_folder(kind: str) -> Path | None:
    """Where the weights of `clip_of` lie; None where none come with this kind of base."""
    folder = POCKET_WEIGHTS / "clip"
    return folder if kind == "pocket" and (folder / "config.json").exists() else None
