"""A contact sheet of a clip while it is denoised: a row for each of a few steps, a few frames in each, as the step predicts them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from cdvideo.base import Base
from cdvideo.files import replace_files
from cdvideo.video import contact_sheet
from cdvideo.video.sheet import evenly_picked

NUM_ROWS = NUM_FRAMES = 4


class Preview:
    """Written to `path` anew at each of NUM_ROWS steps; `seen` goes to `Studio.clip` as `on_prediction`.

    At most NUM_ROWS x NUM_FRAMES pictures are decoded, as many as a clip of 16 frames has.
    """

    def __init__(self, base: Base, path: Path) -> None:
        self.base, self.path = base, path
        self._rows: list[NDArray[np.uint8]] = []
        self._labels: list[str] = []

    def seen(self, done: int, total: int, latents: Tensor) -> None:
        """Takes what the step `done` of `total` predicts, latents (1, C, F, H, W), and writes the sheet if it is one of those shown."""
        if done not in shown_steps(total):
            return
        frames = rearrange(latents[:, :, evenly_picked(latents.shape[2], NUM_FRAMES)], "1 c f h w -> f c h w")
        self._rows.append(self.base.decode(frames).numpy())
        self._labels.append(f"step {done} of {total}")
        content = io.BytesIO()
        contact_sheet(self._rows, NUM_FRAMES, self._labels).save(content, "PNG")
        replace_files(self.path, [(self.path, content.getvalue())])


def shown_steps(total: int) -> set[int]:
    """The numbers, from 1, of the steps that a preview shows: the last of each of NUM_ROWS equal parts."""
    return {max(1, round(total * part / NUM_ROWS)) for part in range(1, NUM_ROWS + 1)}
