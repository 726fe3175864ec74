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
    if len(frames) < 2:
        return 0.0
    return float(np.mean([np.abs(after - before).mean() for before, after in pairwise(map(_luma, frames))]))


def flicker(frames: Frames) -> float:
    """How far brightness jumps forth and back, in levels of 255; 0 for fewer than three frames.

    The mean over pixels and frames of |b - (a + c) / 2| where the frame b lies outside its neighbours a and c, and 0 where it lies between
    them, which is what steady movement and fading look like.
    """
    if len(frames) < 3:
        return 0.0
    jumps = []
    lumas = map(_luma, frames)
    before, middle = next(lumas), next(lumas)
    for after in lumas:
        outside = (middle - before) * (middle - after) > 0
        jumps.append(np.where(outside, np.abs(middle - (before + after) / 2), 0).mean())
        before, middle = middle, after
    return float(np.mean(jumps))


def black_frames(frames: Frames) -> list[int]:
    """The numbers of the frames that are black all over."""
    return [number for number, frame in enumerate(frames) if int(frame.max()) <= BLACK]


def describe_movement(frames: Frames) -> dict[str, float]:
    """What a record says of a clip's frames, in levels of 255."""
    return {"motion": round(motion_amount(frames), 3), "flicker": round(flicker(frames), 3)}


def _luma(frame: Frames) -> NDArray[np.float32]:
    luma: NDArray[np.float32] = frame.astype(np.float32) @ _LUMA
    return luma
