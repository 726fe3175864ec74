"""How a clip looks in time, from its pixels alone: how much moves, how much flickers, and which frames are black. Plain numpy.

Shapes: `F` frames, `H W` height and width in pixels. Brightness is Rec. 709 luma in [0, 255].
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
BLACK = 4
"""A frame none of whose values is above this (of 255) is black."""


def motion_amount(frames: Frames) -> float:
    """The mean absolute difference of brightness between a frame and the next, in levels of 255; 0 for a single frame.

    VBench's temporal flickering (Huang et al. 2024, section 3.1) is (255 - this) / 255 of clips that should stand still.
    """
    return Movement(frames).motion


def flicker(frames: Frames) -> float:
    """How far brightness jumps forth and back, in levels of 255; 0 for fewer than three frames.

    The mean over pixels and frames of |b - (a + c) / 2| where the frame b lies outside its neighbours a and c, and 0 where it lies between
    them, which is what steady movement and fading look like.
    """
    return Movement(frames).flicker


def black_frames(frames: Frames) -> list[int]:
    """The numbers of the frames that are black all over."""
    return [number for number, frame in enumerate(frames) if int(frame.max()) <= BLACK]


class Movement:
    """`motion_amount` and `flicker` of frames (H, W, 3), more of which may be added one by one."""

    def __init__(self, frames: Iterable[Frames] = ()) -> None:
        self._changes: list[float] = []
        self._jumps: list[float] = []
        self._before: NDArray[np.float32] | None = None
        self._last_change: NDArray[np.float32] | None = None
        for frame in frames:
            self.add(frame)

    def add(self, frame: Frames) -> None:
        luma: NDArray[np.float32] = frame.astype(np.float32) @ _LUMA
        if self._before is not None:
            change = luma - self._before
            self._changes.append(float(np.abs(change).mean()))
            if self._last_change is not None:
                # Outside is where one change undoes some of the other; there b - (a + c) / 2 is half of what lies between them.
                jump = np.abs(self._last_change - change)
                jump *= self._last_change * change < 0
                self._jumps.append(float(jump.mean()) / 2)
            self._last_change = change
        self._before = luma

    @property
    def motion(self) -> float:
        return float(np.mean(self._changes or [0]))

    @property
    def flicker(self) -> float:
        return float(np.mean(self._jumps or [0]))

    def described(self) -> dict[str, float]:
        """What a record says of it, in levels of 255."""
        return {"motion": round(self.motion, 3), "flicker": round(self.flicker, 3)}
