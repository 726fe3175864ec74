"""Made-up clips for the tests, and how far two stacks of frames lie apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvideo.video import Clip

LONG_RECORD: dict[str, Any] = {
    "prompt": 'a V* bear "reading" a book \\ 漢字 é 🐻 = ; # \n next line',
    "seed": 7,
    "guidance_scale": 7.5,
    "shots": [{"frames": 16, "none": None}],
    "long": "0123456789" * 520,
}


def moving_scene(num_frames: int = 12, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """A red ball crossing slow waves of colour, shape (F, H, W, 3)."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    frames = []
    for index in range(num_frames):
        phase = 0.2 * index
        waves = [np.sin(x / 30 + phase), np.sin(y / 25 - phase), np.cos((x + y) / 40 + phase)]
        frame = 127 + 100 * np.stack(waves, axis=-1)
        centre = width * (0.2 + 0.6 * index / num_frames)
        frame[(x - centre) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2] = (220, 50, 40)
        frames.append(frame)
    scene: NDArray[np.uint8] = np.rint(np.stack(frames)).astype(np.uint8)
    return scene


def moving_clip(num_frames: int = 12, width: int = 96, height: int = 64, fps: float = 8.0) -> Clip:
    return Clip(frames=moving_scene(num_frames, width, height), fps=fps, record=LONG_RECORD)


def psnr(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over the whole stack; frames in another order or standing still score low."""
    return float(10 * np.log10(255**2 / np.mean((found.astype(float) - wanted.astype(float)) ** 2)))
