"""How like pictures are to each other: measures on features, and one of colours alone that needs no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cdvideo.resources import resource
from cdvideo.train import find_photos, load_photo

Frames = NDArray[np.uint8]
_BINS = 6
ROOM = 1.2
"""The side of a subject's square in its heights."""


def identity(features: Tensor) -> tuple[float, float]:
    """Mean cosine of a clip's frames (F, D) with its first frame, and with their predecessors."""
    return float((features[1:] @ features[0]).mean()), float((features[1:] * features[:-1]).sum(-1).mean())


def followed(frames: Frames, poses: NDArray[np.floating]) -> Frames:
    """The subject's own square of each frame (F, S, S, 3), cut where `poses` (F, 4) say that it is, so that walking is not a change."""
    side = frames.shape[1]
    cuts = []
    for frame, (x, y, height, _) in zip(frames, poses * side, strict=True):
        reach = ROOM * height / 2
        box = (x - reach, y - reach, x + reach, y + reach)
        cut = Image.fromarray(frame).transform((side, side), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)
        cuts.append(np.asarray(cut))
    return np.stack(cuts)


def colours(frames: Frames) -> NDArray[np.float64]:
    """The share of each of 216 colours in the middle half of every picture: (N, 216)."""
    height, width = frames.shape[1:3]
    middle = frames[:, height // 4 : -(height // 4), width // 4 : -(width // 4)].astype(int) * _BINS // 256
    codes = (middle[..., 0] * _BINS + middle[..., 1]) * _BINS + middle[..., 2]
    return np.stack([np.bincount(code.ravel(), minlength=_BINS**3) / code.size for code in codes])


def colour_likeness(pictures: Frames, photos: Frames) -> NDArray[np.float64]:
    """Each picture's overlap of colours with the photo most like it, in [0, 1]: (N,). The middle holds the subject."""
    ours, theirs = colours(pictures), colours(photos)
    return np.minimum(ours[:, None], theirs[None]).sum(-1).max(1)


def sample_subjects() -> dict[str, list[Path]]:
    """The photos of each personal subject: the folders of `samples/`, named by class word."""
    folders = sorted(path for path in resource("samples").iterdir() if path.is_dir())
    return {folder.name: find_photos(folder) for folder in folders}


def read_photos(paths: list[Path], side: int = 128) -> Frames:
    return np.stack([np.asarray(load_photo(path).resize((side, side), Image.Resampling.LANCZOS)) for path in paths])
