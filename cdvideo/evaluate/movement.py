"""How a clip looks in time, from its pixels alone: how much moves, how much flickers, and which frames are black. Plain numpy.

Shapes: `F` frames, `H W` height and width in pixels. Brightness is Rec. 709 luma in [0, 255].
"""

from __future__ import annotations

from itertools import pairwise

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
    return _motion_and_flicker(frames)[0]


def flicker(frames: Frames) -> float:
    """How far brightness jumps forth and back, in levels of 255; 0 for fewer than three frames.

    The mean over pixels and frames of |b - (a + c) / 2| where the frame b lies outside its neighbours a and c, and 0 where it lies between
    them, which is what steady movement and fading look like.
    """
    return _motion_and_flicker(frames)[1]


def black_frames(frames: Frames) -> list[int]:
    """The numbers of the frames that are black all over."""
    return [number for number, frame in enumerate(frames) if int(frame.max()) <= BLACK]


def describe_movement(frames: Frames) -> dict[str, float]:
    """What a record says of a clip's frames, in levels of 255."""
    motion, jumps = _motion_and_flicker(frames)
    return {"motion": round(motion, 3), "flicker": round(jumps, 3)}


def _motion_and_flicker(frames: Frames) -> tuple[float, float]:
    changes: list[float] = []
    jumps: list[float] = []
    last_change: NDArray[np.float32] | None = None
    for before, after in pairwise(map(_luma, frames)):
        change = after - before
        changes.append(float(np.abs(change).mean()))
        if last_change is not None:
            # Outside is where one change undoes some of the other; there b - (a + c) / 2 is half of what lies between them.
            jump = np.abs(last_change - change)
            jump *= last_change * change < 0
            jumps.append(float(jump.mean()) / 2)
        last_change = change
    return float(np.mean(changes or [0])), float(np.mean(jumps or [0]))


def _luma(frame: Frames) -> NDArray[np.float32]:
    luma: NDArray[np.float32] = frame.astype(np.float32) @ _LUMA
    return luma
