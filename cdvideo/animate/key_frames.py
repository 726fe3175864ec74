"""What changes over a clip: key frames, and how much each of them counts at every frame.

Shapes: `F` frames of the clip, `K` key frames.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cdvideo.errors import UserError
from cdvideo.numbers import is_whole
from cdvideo.strengths import check_strength

CURVES = ("linear", "smooth", "hold")
"""How one key frame turns into the next: at an even pace, slowly at both ends (3t² - 2t³), or all at once when the next is reached."""


def key_frame_weights(key_frames: Sequence[int], num_frames: int, *, curve: str = "linear", loop: bool = False) -> Tensor:
    """How much each key frame counts at each frame, (F, K); each row sums to 1. `key_frames` ascend.

    Before the first and after the last key frame that one alone counts; in a loop the last turns into the first again.
    """
    weights = torch.zeros(num_frames, len(key_frames))
    for frame in range(num_frames):
        before = bisect_right(key_frames, frame) - 1
        after, share = before + 1, 0.0
        if loop and len(key_frames) > 1 and not 0 <= before < len(key_frames) - 1:
            before, after = len(key_frames) - 1, 0
            span = key_frames[0] + num_frames - key_frames[-1]
            share = _eased(((frame - key_frames[-1]) % num_frames) / span, curve)
        elif 0 <= before < len(key_frames) - 1:
            share = _eased((frame - key_frames[before]) / (key_frames[after] - key_frames[before]), curve)
        weights[frame, max(before, 0)] += 1 - share
        if share:
            weights[frame, after] += share
    return weights


def _eased(share: float, curve: str) -> float:
    if curve == "hold":
        return 0.0
    return share * share * (3 - 2 * share) if curve == "smooth" else share


def values_by_frame(curve: Mapping[int, float], num_frames: int, *, loop: bool = False) -> Tensor:
    """The value at each frame, (F,), on straight lines between the key frames."""
    ordered = sorted(curve.items())
    weights = key_frame_weights([frame for frame, _ in ordered], num_frames, loop=loop)
    return weights @ torch.tensor([float(value) for _, value in ordered])


def check_key_frames(key_frames: Sequence[int], num_frames: int, what: str) -> None:
    """Raises UserError unless there is a key frame and each is a number that lies in the clip."""
    if strange := [frame for frame in key_frames if not is_whole(frame)]:
        raise UserError(f"{what} is set at {strange[0]!r}, which is no frame", remedy="frames are whole numbers, counted from 0")
    outside = [frame for frame in key_frames if not 0 <= frame < num_frames]
    if outside or not key_frames:
        found = f"frame {outside[0]}" if outside else "no frame"
        raise UserError(
            f"{what} is set at {found}, and the clip has {num_frames} frames", remedy=f"key frames go from 0 to {num_frames - 1}"
        )


def parse_values(text: str) -> dict[int, float]:
    """Frame -> value from "0:1.0, 12:0.3". Raises UserError for anything else."""
    values: dict[int, float] = {}
    for part in text.split(","):
        frame, colon, value = part.partition(":")
        try:
            number, strength = int(frame), float(value if colon else "nan")
            if not math.isfinite(strength):
                raise ValueError
        except ValueError:
            cause, remedy = f"{part.strip()!r} in it is none", "write it as FRAME:VALUE, such as 12:0.3"
            raise UserError(f"{text!r} is no course of values", cause=cause, remedy=remedy) from None
        if number in values:
            raise UserError(f"there are two values at frame {number} in {text!r}", remedy="give each frame once")
        check_strength(strength, of="a concept")
        values[number] = strength
    return values
