"""A Clip: finished frames, their rate, and the record of how they were made."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvideo.errors import UserError

# What every container can count.
MIN_FPS, _MAX_FPS = 0.01, 1000.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Frames of shape (F, H, W, 3), uint8 RGB; `fps` in frames per second, 0.01 to 1000; `record` holds every setting that made them.

    F, H and W are at least 1. The frames are not copied, and can only be read through the clip. Raises TypeError where the frames are not
    uint8 or the record cannot be written as JSON, ValueError where a shape or the rate is impossible.
    """

    frames: NDArray[np.uint8]
    fps: float
    record: dict[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.frames, np.ndarray) or self.frames.dtype != np.uint8:
            found = getattr(self.frames, "dtype", type(self.frames).__name__)
            raise TypeError(f"the frames of a clip are a uint8 array, not {found}")
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or 0 in self.frames.shape:
            raise ValueError(f"the frames of a clip have shape (F, H, W, 3) with F, H, W >= 1, not {self.frames.shape}")
        if not MIN_FPS <= self.fps <= _MAX_FPS:
            raise ValueError(f"the frame rate of a clip lies between {MIN_FPS:g} and {_MAX_FPS:g}, not at {self.fps}")
        if not isinstance(self.record, dict):
            raise TypeError(f"the record of a clip is a dict, not {type(self.record).__name__}")
        json.dumps(self.record, allow_nan=False)
        read_only = self.frames.view()
        read_only.flags.writeable = False
        object.__setattr__(self, "frames", read_only)

    def __repr__(self) -> str:
        return f"Clip({self.num_frames} frames of {self.width}x{self.height}, {self.fps:g} a second)"

    @property
    def num_frames(self) -> int:
        return int(self.frames.shape[0])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.frames.shape[2])

    @property
    def duration(self) -> float:
        """In seconds, the last frame's own time included."""
        return self.num_frames / self.fps

    def save(self, *paths: str | os.PathLike[str]) -> Clip:
        """Writes an MP4, WebM, GIF, PNG or a folder of PNGs, as each path says, and returns the clip. Raises UserError as `write` does."""
        from cdvideo.video.write import write

        for path in paths:
            write(self, path)
        return self


def concatenate(clips: Sequence[Clip], record: dict[str, Any]) -> Clip:
    """One Clip with the frames of all, one after the other (hard cuts), carrying `record`.

    Raises UserError where a clip differs from the first in size or rate, and where there is none.
    """
    if not clips:
        raise UserError("There is no clip to join.", remedy="give at least one shot")
    first = clips[0]
    for number, clip in enumerate(clips[1:], start=2):
        if (clip.width, clip.height) != (first.width, first.height):
            raise UserError(
                f"Clip {number} cannot be joined to clip 1.",
                cause=f"it is {clip.width}x{clip.height} pixels, clip 1 is {first.width}x{first.height}",
                remedy="render every shot with the same size",
            )
        if not math.isclose(clip.fps, first.fps, rel_tol=1e-6):
            raise UserError(
                f"Clip {number} cannot be joined to clip 1.",
                cause=f"it runs at {clip.fps:g} frames per second, clip 1 at {first.fps:g}",
                remedy="render every shot with the same fps",
            )
    return Clip(frames=np.concatenate([clip.frames for clip in clips]), fps=first.fps, record=record)
