"""CLIP as a measure (Radford et al. 2021): of a picture and a text, and of a picture and photos.

Pocket's CLIP ships with it; Stable Diffusion 1.5's text encoder is the text tower of OpenAI's ViT-L/14, which comes from the hub.

Shapes: `N` pictures or texts, `P` photos, `D` the width that texts and pictures share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from cdvideo.base.catalog import CLIPS
from cdvideo.base.hub import cached_folder, fetch
from cdvideo.base.layout import choose, clip_requirements

Frames = NDArray[np.uint8]
POCKET_WEIGHTS = Path(__file__).parents[1] / "pocket" / "weights"
PREPROCESSING = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5), "resample": Image.Resampling.BOX}
"""How pocket's CLIP takes its pixels; others say so themselves."""


class Clip:
    """Normalised image and text features (N, D) of the CLIP in a folder of transformers' layout. On the CPU, in fp32."""

    def __init__(self, folder: Path = POCKET_WEIGHTS / "clip") -> None:
        from transformers import CLIPModel, CLIPTokenizer

        with _quietly():
            self.model: Any = CLIPModel.from_pretrained(folder).float().eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(POCKET_WEIGHTS / "tokenizer" if folder == POCKET_WEIGHTS / "clip" else folder)
        settings = folder / "preprocessor_config.json"
        told = {**PREPROCESSING, **(json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {})}
        self._mean, self._std = (torch.tensor(told[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
        self._resample = Image.Resampling(told["resample"])

    @cached_property
    def name(self) -> str:
        """16 hexadecimal digits that tell this CLIP's picture features from another's."""
        return hashlib.sha256(self.model.visual_projection.weight.detach().numpy().tobytes()).hexdigest()[:16]

    @torch.no_grad()
    def images(self, frames: Frames) -> Tensor:
        """Of pictures (N, H, W, 3) uint8, cut to a square around their middle."""
        side = self.model.config.vision_config.image_size
        small = [np.asarray(ImageOps.fit(Image.fromarray(frame), (side, side), self._resample)) for frame in frames]
        pixels = (torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
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

    def likeness(self, frames: Frames, photos: Frames | Tensor) -> float:
        """CLIP-I: the mean cosine of pictures (N, H, W, 3) with photos (P, H, W, 3), or with photos' features (P, D), over all pairs."""
        features = photos.float() if isinstance(photos, Tensor) else self.images(photos)
        return float((self.images(frames) @ features.T).mean())


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bar, which is full before it can be read."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def clip_of(kind: str) -> Clip | None:
    """The CLIP of a kind of base (a preset's `kind`); None where it is not on this machine."""
    folder = clip_folder(kind)
    return Clip(folder) if folder else None


def clip_folder(kind: str) -> Path | None:
    """Where the weights of `clip_of` lie; None where they are not on this machine."""
    if kind == "pocket":
        folder = POCKET_WEIGHTS / "clip"
        return folder if (folder / "config.json").exists() else None
    cached = cached_folder(CLIPS[kind].location)
    return cached if cached and not choose(clip_requirements(), lambda name: (cached / name).is_file())[1] else None


def fetch_clip(kind: str, *, offline: bool = False) -> None:
    """Sees to it that `clip_of` has one. Raises UserError where it is not on this machine and cannot be fetched."""
    if kind in CLIPS:
        fetch(CLIPS[kind].location, clip_requirements(), what="CLIP that judges pictures", offline=offline)
